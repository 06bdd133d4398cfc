//! Streams that a thread of their own reads, for reading blocks: files and standard input.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::frames::{Filling, Frames, Start};
use super::{Progress, Read, ReadLimit, Reader};
use crate::codecs::DecoderConfig;

/// Bytes read at once. A message that waits keeps its chunk in memory, so it is no more than makes
/// the calls cheap.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// Chunks that are read ahead, so that reading and decoding overlap.
const CHUNKS_AHEAD: usize = 2;

/// Chunks that make up a batch at most, where they come in small pieces.
const CHUNKS_IN_A_BATCH: usize = 64;

/// What the thread tells the reader.
pub(super) enum Piece {
    /// A stream begins; its name stands in errors.
    Start { start: Start, name: String },
    Data {
        partition: u32,
        bytes: Bytes,
        /// Of all streams, compressed as they may be, with this chunk.
        read_bytes: u64,
    },
    /// A stream has no more bytes.
    End { partition: u32 },
    /// No more streams.
    Finished,
}

/// Why the thread ends early.
pub(super) enum Halt {
    /// The reader is gone.
    Stopped,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Halt {
        Halt::Failed(error)
    }
}

/// The thread's end of the channel.
pub(super) struct Pieces {
    sender: mpsc::Sender<anyhow::Result<Piece>>,
    stop: std_mpsc::Receiver<()>,
}

impl Pieces {
    pub fn send(&self, piece: Piece) -> Result<(), Halt> {
        self.sender.blocking_send(Ok(piece)).map_err(|_| Halt::Stopped)
    }

    /// Waits, but no longer than the reader is there.
    pub fn wait(&self, time: Duration) -> Result<(), Halt> {
        match self.stop.recv_timeout(time) {
            Err(std_mpsc::RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(std_mpsc::RecvTimeoutError::Disconnected) => Err(Halt::Stopped),
        }
    }
}

/// The reader of streams; see [`StreamReader::spawn`].
pub(super) struct StreamReader {
    pieces: mpsc::Receiver<anyhow::Result<Piece>>,
    /// Dropped with the reader, which ends the thread's waiting.
    _stop: std_mpsc::Sender<()>,
    codec: Arc<dyn DecoderConfig>,
    max_message_bytes: usize,
    /// Told when a stream has ended: its partition, and the offset behind its last message.
    on_end: Box<dyn Fn(u32, u64) + Send>,
    streams: HashMap<u32, Stream>,
    current: Option<Current>,
    /// What came up while there were messages to be returned first.
    failed: Option<anyhow::Error>,
    finished: bool,
    progress: Option<Progress>,
}

struct Stream {
    name: String,
    frames: Frames,
}

/// The chunk that is being cut.
struct Current {
    partition: u32,
    bytes: Bytes,
    at: usize,
    read_bytes: u64,
}

impl StreamReader {
    /// Runs `read` in a thread; it sends all pieces but [`Piece::Finished`]. `total_bytes` is what it
    /// will read, if there is an end.
    pub fn spawn(
        codec: Arc<dyn DecoderConfig>,
        max_message_bytes: usize,
        total_bytes: Option<u64>,
        on_end: impl Fn(u32, u64) + Send + 'static,
        read: impl FnOnce(&Pieces) -> Result<(), Halt> + Send + 'static,
    ) -> anyhow::Result<StreamReader> {
        let (sender, pieces) = mpsc::channel(CHUNKS_AHEAD);
        let (stop, stopped) = std_mpsc::channel();
        // Not one of tokio's: reading standard input cannot be interrupted, and the runtime would
        // wait for it at the end.
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                let pieces = Pieces { sender, stop: stopped };
                match read(&pieces).and_then(|()| pieces.send(Piece::Finished)) {
                    Ok(()) | Err(Halt::Stopped) => {}
                    // If the reader is gone nobody waits for the error.
                    Err(Halt::Failed(error)) => drop(pieces.sender.blocking_send(Err(error))),
                }
            })
            .context("no thread could be started to read the source")?;
        Ok(StreamReader {
            pieces,
            _stop: stop,
            codec,
            max_message_bytes,
            on_end: Box::new(on_end),
            streams: HashMap::new(),
            current: None,
            failed: None,
            finished: false,
            progress: total_bytes.map(|total_bytes| Progress { read_bytes: 0, total_bytes }),
        })
    }

    /// Takes what the thread sent, but data only into `current`.
    fn accept(&mut self, piece: anyhow::Result<Piece>, out: &mut Filling) -> anyhow::Result<()> {
        match piece? {
            Piece::Start { start, name } => {
                let frames = Frames::new(&*self.codec, self.max_message_bytes, &start)
                    .with_context(|| format!("cannot read {name}"))?;
                self.streams.insert(start.partition, Stream { name, frames });
            }
            Piece::Data { partition, bytes, read_bytes } => {
                self.current = Some(Current { partition, bytes, at: 0, read_bytes });
            }
            Piece::End { partition } => {
                let mut stream = self.streams.remove(&partition).with_context(|| never_started(partition))?;
                stream.frames.finish(out).with_context(|| format!("cannot read {}", stream.name))?;
                (self.on_end)(partition, stream.frames.last_row());
            }
            Piece::Finished => self.finished = true,
        }
        Ok(())
    }

    /// Decodes the current chunk until the batch is full.
    fn cut(&mut self, limit: ReadLimit, out: &mut Filling) -> anyhow::Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let partition = current.partition;
        let stream = self.streams.get_mut(&partition).with_context(|| never_started(partition))?;
        current.at = stream
            .frames
            .cut(&current.bytes, current.at, limit, out)
            .with_context(|| format!("cannot read {}", stream.name))?;
        if current.at < current.bytes.len() {
            self.current = Some(current);
        } else if let Some(progress) = &mut self.progress {
            progress.read_bytes = current.read_bytes;
        }
        Ok(())
    }
}

#[async_trait]
impl Reader for StreamReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        let mut out = Filling::default();
        let mut chunks = 0;
        loop {
            if out.rows.builder.is_empty() {
                // Arenas of chunks in which no message ended.
                out = Filling::default();
                chunks = 0;
                if let Some(error) = self.failed.take() {
                    return Err(error);
                }
            }
            if self.failed.is_some() || out.is_full(limit) || chunks == CHUNKS_IN_A_BATCH {
                break;
            }
            let result = if self.current.is_some() {
                chunks += 1;
                self.cut(limit, &mut out)
            } else if self.finished {
                break;
            } else if out.rows.builder.is_empty() {
                // The only place to wait, and nothing was taken yet: so nothing is lost if this
                // future is dropped.
                let piece = self.pieces.recv().await.unwrap_or_else(|| Err(thread_died()));
                self.accept(piece, &mut out)
            } else {
                match self.pieces.try_recv() {
                    Ok(piece) => self.accept(piece, &mut out),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => Err(thread_died()),
                }
            };
            self.failed = result.err();
        }
        if out.rows.builder.is_empty() { Ok(Read::End) } else { Ok(Read::Batch(out.rows.finish())) }
    }

    fn progress(&self) -> Option<Progress> {
        self.progress
    }
}

fn never_started(partition: u32) -> String {
    format!("bytes of a stream that never started (partition {partition})")
}

fn thread_died() -> anyhow::Error {
    anyhow::anyhow!("the thread that reads the source has died")
}

/// Buffers that chunks were read into, to be used again: fresh ones cost a page fault every 4 KiB.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// Buffers kept for use.
const KEPT_BUFFERS: usize = 4;

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; CHUNK_BYTES].into())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_BUFFERS {
            kept.push(buffer);
        }
    }

    /// Reads once, what there is. `None` at the end.
    pub fn read(&self, from: &mut impl io::Read) -> io::Result<Option<Bytes>> {
        let mut buffer = self.take();
        let result = loop {
            match from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        result.map(|len| self.chunk(buffer, len))
    }

    /// Reads until a chunk is full. Returns what was read, `None` for nothing, and what went wrong
    /// or whether the end was reached.
    pub fn fill(&self, from: &mut impl io::Read) -> (Option<Bytes>, io::Result<bool>) {
        let mut buffer = self.take();
        let mut len = 0;
        let result = loop {
            match from.read(&mut buffer[len..]) {
                Ok(0) => break Ok(len < buffer.len()),
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        (self.chunk(buffer, len), result)
    }

    fn chunk(&self, buffer: Box<[u8]>, len: usize) -> Option<Bytes> {
        // A few bytes are not worth keeping a whole buffer in memory for.
        if len < CHUNK_BYTES / 2 {
            let bytes = (len > 0).then(|| Bytes::copy_from_slice(&buffer[..len]));
            self.give_back(buffer);
            return bytes;
        }
        Some(Bytes::from_owner(Chunk { buffer, len, buffers: self.clone() }))
    }
}

/// A chunk whose buffer is used again when nothing points into it.
struct Chunk {
    buffer: Box<[u8]>,
    len: usize,
    buffers: Buffers,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{DEADLINE, limit, next};
    use super::*;
    use crate::codecs::tests::decoder;

    fn spawn(read: impl FnOnce(&Pieces) -> Result<(), Halt> + Send + 'static) -> StreamReader {
        StreamReader::spawn(decoder("lines", "{}").unwrap(), 100, None, |_, _| {}, read).unwrap()
    }

    fn start(partition: u32) -> Piece {
        Piece::Start { start: Start { partition, ..Start::default() }, name: "test".into() }
    }

    fn data(partition: u32, bytes: &'static [u8]) -> Piece {
        Piece::Data { partition, bytes: Bytes::from_static(bytes), read_bytes: 0 }
    }

    #[test]
    fn the_thread_ends_when_its_reader_is_dropped() {
        for wait in [true, false] {
            let (alive, ended) = std_mpsc::channel::<()>();
            let reader = spawn(move |pieces| {
                let _alive = alive;
                pieces.send(start(1))?;
                loop {
                    if wait {
                        pieces.wait(Duration::from_secs(3600))?;
                    } else {
                        pieces.send(data(1, b"x\n"))?;
                    }
                }
            });
            drop(reader);
            assert_eq!(ended.recv_timeout(DEADLINE), Err(std_mpsc::RecvTimeoutError::Disconnected));
        }
    }

    #[tokio::test]
    async fn streams_may_be_mixed_and_what_was_read_comes_before_an_error() {
        let mut reader = spawn(|pieces| {
            pieces.send(start(1))?;
            pieces.send(start(2))?;
            pieces.send(data(1, b"a1\na"))?;
            pieces.send(data(2, b"b1\n"))?;
            pieces.send(data(1, b"2\n"))?;
            pieces.send(Piece::End { partition: 2 })?;
            Err(anyhow::anyhow!("it broke").into())
        });
        let mut all = Vec::new();
        let error = loop {
            match reader.read(limit(100, 1000)).await {
                Ok(Read::Batch(read)) => all.extend(super::super::testing::Row::of(read)),
                Ok(Read::End | Read::Lost(_) | Read::Rewound) => panic!("it ended"),
                Err(error) => break error,
            }
        };
        let seen: Vec<_> = all.iter().map(|row| (row.text(), row.position.partition)).collect();
        assert_eq!(seen, [("a1", 1), ("b1", 2), ("a2", 1)]);
        assert_eq!(error.to_string(), "it broke");
    }

    #[tokio::test]
    async fn what_is_dropped_while_it_waits_is_not_lost() {
        const STREAM: &[u8] = b"one\ntwo\n\nthree\nfour";
        let (go_on, may_go_on) = std_mpsc::channel();
        let mut reader = spawn(move |pieces| {
            let wait = || may_go_on.recv_timeout(DEADLINE).map_err(|_| Halt::Stopped);
            wait()?;
            pieces.send(start(1))?;
            for byte in STREAM.chunks(1) {
                wait()?;
                pieces.send(data(1, byte))?;
            }
            pieces.send(Piece::End { partition: 1 })
        });
        let (mut all, mut dropped) = (Vec::new(), 0);
        for _ in 0..=STREAM.len() {
            tokio::select! {
                biased;
                rows = next(&mut reader, limit(100, 1000)) => all.extend(rows.unwrap()),
                () = std::future::ready(()) => dropped += 1,
            }
            go_on.send(()).unwrap();
        }
        while let Some(rows) = next(&mut reader, limit(100, 1000)).await {
            all.extend(rows);
        }
        assert!(dropped > 0);
        let seen: Vec<_> = all.iter().map(|row| (row.text(), row.position.offset)).collect();
        assert_eq!(seen, [("one", 4), ("two", 8), ("three", 15), ("four", 19)]);
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_an_error_and_no_end() {
        let mut reader = spawn(|pieces| {
            pieces.send(start(1))?;
            pieces.send(data(1, b"x\n"))?;
            panic!("on purpose")
        });
        assert_eq!(next(&mut reader, limit(100, 1000)).await.unwrap().len(), 1);
        assert!(reader.read(limit(100, 1000)).await.unwrap_err().to_string().contains("has died"));
    }

    #[tokio::test]
    async fn what_holds_no_message_fills_no_batch() {
        let mut reader = spawn(|pieces| {
            pieces.send(start(1))?;
            for _ in 0..70_000 {
                pieces.send(data(1, b"\n"))?;
            }
            pieces.send(data(1, b"x"))?;
            pieces.send(Piece::End { partition: 1 })
        });
        let rows = next(&mut reader, limit(100, 1000)).await.unwrap();
        assert_eq!((rows[0].text(), rows[0].position.record), ("x", 70_001));
        assert!(next(&mut reader, limit(100, 1000)).await.is_none());
    }

    #[test]
    fn a_buffer_is_used_again_when_nothing_points_into_it() {
        let buffers = Buffers::default();
        let bytes = vec![7; CHUNK_BYTES * 2 + 3];
        let mut from = &bytes[..];
        let (first, full) = buffers.fill(&mut from);
        let first = first.unwrap();
        assert!(!full.unwrap() && first.len() == CHUNK_BYTES);
        let part = first.slice(5..6);
        let at = first.as_ptr();
        drop(first);
        let second = buffers.fill(&mut from).0.unwrap();
        assert_ne!(second.as_ptr(), at);
        drop(part);
        let (third, end) = buffers.fill(&mut from);
        assert!(end.unwrap());
        assert_eq!(third.unwrap(), [7, 7, 7][..]);
        let again = buffers.take();
        assert_eq!(again.as_ptr(), at);
    }
}
