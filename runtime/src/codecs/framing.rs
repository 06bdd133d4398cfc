//! Where one frame of a stream ends and the next begins.

mod container;

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};

use self::container::ContainerFramer;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// The whole stream is one frame.
    Whole,
    /// Frames end with `\n` (a `\r` before it is not part of the frame); empty ones are skipped.
    Lines,
    /// Records of RFC 4180, in which a line break may be quoted. Between records as `Lines`.
    Csv {
        /// What stands between fields.
        delimiter: u8,
    },
    /// The head of an Avro object container file, then its blocks.
    AvroContainer,
}

impl Framing {
    /// A frame without the line breaks around it. What is left empty is no message, unless the
    /// framing is [`Framing::Whole`].
    pub fn trim(self, frame: &[u8]) -> &[u8] {
        let trim_end = |frame| {
            let frame = <[u8]>::strip_suffix(frame, b"\n").unwrap_or(frame);
            frame.strip_suffix(b"\r").unwrap_or(frame)
        };
        match self {
            Framing::Whole | Framing::AvroContainer => frame,
            Framing::Lines => trim_end(frame),
            // Blank lines before a record belong to it.
            Framing::Csv { .. } => {
                let blank = frame.iter().take_while(|&&byte| byte == b'\n').count();
                trim_end(&frame[blank..])
            }
        }
    }

    /// The byte order mark that a text may begin with and that belongs to no frame.
    pub fn byte_order_mark(self) -> &'static [u8] {
        match self {
            Framing::Whole | Framing::AvroContainer => b"",
            Framing::Lines | Framing::Csv { .. } => "\u{feff}".as_bytes(),
        }
    }

    /// The frames of a stream that is all there, trimmed, without the empty ones; with the head,
    /// if it has one.
    pub fn frames(self, stream: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut framer = Framer::new(self);
        let mut rest = stream.strip_prefix(self.byte_order_mark()).unwrap_or(stream);
        std::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                let (frame, behind) = rest.split_at(framer.find_end(rest).unwrap_or(rest.len()));
                rest = behind;
                let frame = self.trim(frame);
                if !frame.is_empty() {
                    return Some(frame);
                }
            }
        })
    }
}

/// Finds the ends of frames in a stream that comes in pieces of any size, in constant memory.
#[derive(Debug)]
pub enum Framer {
    Whole,
    Lines,
    Csv(Box<csv_core::Reader>),
    AvroContainer(ContainerFramer),
}

impl Framer {
    pub fn new(framing: Framing) -> Framer {
        match framing {
            Framing::Whole => Framer::Whole,
            Framing::Lines => Framer::Lines,
            Framing::Csv { delimiter } => Framer::Csv(Box::new(csv_reader(delimiter))),
            Framing::AvroContainer => Framer::AvroContainer(ContainerFramer::new()),
        }
    }

    /// For a stream that goes on behind its head.
    pub fn behind_head(framing: Framing) -> Framer {
        match framing {
            Framing::AvroContainer => Framer::AvroContainer(ContainerFramer::behind_head()),
            other => Framer::new(other),
        }
    }

    /// Looks for the end of the frame that is being read in the bytes that come next, and returns
    /// how many of them belong to it, its line break included. `None` if all of them do and it
    /// does not end there. The next call gets what comes behind.
    pub fn find_end(&mut self, next: &[u8]) -> Option<usize> {
        match self {
            Framer::Whole => None,
            Framer::Lines => memchr::memchr(b'\n', next).map(|at| at + 1),
            Framer::Csv(reader) => {
                // The fields themselves are the decoder's affair.
                let (mut fields, mut ends) = ([0; 1024], [0; 64]);
                let mut at = 0;
                while at < next.len() {
                    let (result, read, ..) = reader.read_record(&next[at..], &mut fields, &mut ends);
                    at += read;
                    if matches!(result, ReadRecordResult::Record) {
                        return Some(at);
                    }
                }
                None
            }
            Framer::AvroContainer(framer) => framer.find_end(next),
        }
    }
}

/// A reader for which only `\n` ends a record, so that `\r\n` does not end it in its middle.
pub(super) fn csv_reader(delimiter: u8) -> csv_core::Reader {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build();
    start_record(&mut reader);
    reader
}

/// Forgets what was read and starts anew, but not as at the start of a file: there the reader would
/// take a byte order mark out of the first field.
pub(super) fn start_record(reader: &mut csv_core::Reader) {
    reader.reset();
    reader.read_record(b"\n", &mut [], &mut []);
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use millstream_formats::avro;
    use proptest::prelude::*;

    const CSV: Framing = Framing::Csv { delimiter: b',' };

    fn frames(framing: Framing, stream: &[u8]) -> Vec<String> {
        framing.frames(stream).map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
    }

    #[test]
    fn lines_end_with_either_line_break() {
        assert_eq!(frames(Framing::Lines, b"a\r\n\n\r\nb\rc\nd"), ["a", "b\rc", "d"]);
        assert_eq!(frames(Framing::Lines, b""), [""; 0]);
        assert_eq!(frames(Framing::Lines, "\u{feff}a\n\u{feff}b".as_bytes()), ["a", "\u{feff}b"]);
    }

    #[test]
    fn a_whole_stream_is_one_frame() {
        assert_eq!(frames(Framing::Whole, b"a\nb\r\n"), ["a\nb\r\n"]);
        assert_eq!(frames(Framing::Whole, "\u{feff}".as_bytes()), ["\u{feff}"]);
    }

    #[test]
    fn csv_records_may_hold_quoted_line_breaks() {
        let stream = b"a,\"x\r\ny\"\r\n\n\r\n\"say \"\"hi\"\"\n\",5\" pipe\n\"\"\nlast";
        assert_eq!(frames(CSV, stream), ["a,\"x\r\ny\"", "\"say \"\"hi\"\"\n\",5\" pipe", "\"\"", "last"]);
    }

    /// A container file with blocks of these many values, one byte each.
    pub fn container(blocks: &[u8]) -> Vec<u8> {
        let schema = avro::Schema::parse("\"boolean\"", &[]).unwrap();
        let mut file = avro::head(&schema, avro::Compression::Null);
        let marker = file[file.len() - 16..].to_vec();
        for &values in blocks {
            file.extend_from_slice(&[values * 2, values * 2]);
            file.extend(std::iter::repeat_n(1, values.into()));
            file.extend_from_slice(&marker);
        }
        file
    }

    #[test]
    fn a_container_is_its_head_and_its_blocks() {
        let file = container(&[3, 0, 63]);
        let found: Vec<usize> = Framing::AvroContainer.frames(&file).map(<[u8]>::len).collect();
        assert_eq!(found, [file.len() - 21 - 18 - 81, 21, 18, 81]);
        let mut behind = Framer::behind_head(Framing::AvroContainer);
        assert_eq!(behind.find_end(&file[found[0]..]), Some(21));
        assert_eq!(frames(Framing::AvroContainer, b"Obj\x02 and more"), ["Obj\x02 and more"]);
        // A number without end, and one below zero.
        for broken in [&[0xff; 40][..], &[2, 1, 0, 0]] {
            let mut framer = Framer::behind_head(Framing::AvroContainer);
            assert_eq!(framer.find_end(broken), None);
            assert_eq!(framer.find_end(&[0; 100]), None);
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_ends_of_blocks(
            blocks in proptest::collection::vec(0u8..64, 0..6),
            cuts in proptest::collection::vec(1usize..9, 0..60),
        ) {
            let file = container(&blocks);
            let ends = |cuts: &[usize]| {
                let (mut framer, mut ends, mut at) = (Framer::new(Framing::AvroContainer), Vec::new(), 0);
                for piece in cuts.iter().copied().chain([usize::MAX]) {
                    let stop = file.len().min(at + piece.min(file.len()));
                    while let Some(end) = framer.find_end(&file[at..stop]) {
                        at += end;
                        ends.push(at);
                    }
                    at = stop;
                }
                ends
            };
            prop_assert_eq!(ends(&cuts).len(), blocks.len() + 1);
            prop_assert_eq!(ends(&cuts), ends(&[]));
        }

        #[test]
        fn pieces_of_any_size_give_the_same_ends(
            stream in "[ab,\"\r\n\u{feff}]{0,60}",
            cuts in proptest::collection::vec(1usize..9, 0..60),
        ) {
            for framing in [Framing::Whole, Framing::Lines, CSV] {
                let ends = |cuts: &[usize]| {
                    let (mut framer, mut ends, mut at) = (Framer::new(framing), Vec::new(), 0);
                    for piece in cuts.iter().copied().chain([usize::MAX]) {
                        let stop = stream.len().min(at + piece.min(stream.len()));
                        while let Some(end) = framer.find_end(&stream.as_bytes()[at..stop]) {
                            at += end;
                            ends.push(at);
                        }
                        at = stop;
                    }
                    ends
                };
                prop_assert_eq!(ends(&cuts), ends(&[]));
            }
        }
    }
}
