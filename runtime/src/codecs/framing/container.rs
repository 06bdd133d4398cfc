//! Where the head and the blocks of an Avro object container file end (Avro 1.12, "Object Container Files").

/// Its state between two bytes. What is no such file has no further end, so all of it is one frame, which
/// its decoder then refuses.
#[derive(Clone, Debug)]
pub struct ContainerFramer {
    at: At,
    /// The number that is being read: its bits so far, and how many.
    number: u64,
    bits: u32,
    /// Entries that are left of this part of the metadata.
    entries: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// So many bytes are left of the magic.
    Magic(u64),
    /// Number of entries of a part of the metadata; negative if its size in bytes follows.
    Entries,
    EntriesBytes,
    KeyBytes,
    Key(u64),
    ValueBytes,
    Value(u64),
    /// So many bytes are left of the frame.
    Rest(u64),
    Count,
    Size,
    Broken,
}

const MAGIC: &[u8; 4] = b"Obj\x01";
const MARKER_BYTES: u64 = 16;

impl ContainerFramer {
    /// At the start of a file.
    pub fn new() -> ContainerFramer {
        ContainerFramer { at: At::Magic(4), number: 0, bits: 0, entries: 0 }
    }

    /// At the start of a block.
    pub fn behind_head() -> ContainerFramer {
        ContainerFramer { at: At::Count, ..ContainerFramer::new() }
    }

    /// As [`super::Framer::find_end`].
    pub fn find_end(&mut self, next: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < next.len() {
            match self.at {
                At::Broken => return None,
                At::Magic(left) => {
                    let ours = MAGIC[4 - left as usize];
                    self.at = match next[at] == ours {
                        false => At::Broken,
                        true if left == 1 => At::Entries,
                        true => At::Magic(left - 1),
                    };
                    at += 1;
                }
                At::Key(left) | At::Value(left) | At::Rest(left) => {
                    let taken = left.min((next.len() - at) as u64);
                    at += taken as usize;
                    let left = left - taken;
                    self.at = match self.at {
                        At::Key(_) if left > 0 => At::Key(left),
                        At::Key(_) => At::ValueBytes,
                        At::Value(_) if left > 0 => At::Value(left),
                        At::Value(_) => self.entry_ended(),
                        _ if left > 0 => At::Rest(left),
                        _ => {
                            self.at = At::Count;
                            return Some(at);
                        }
                    };
                }
                At::Entries | At::EntriesBytes | At::KeyBytes | At::ValueBytes | At::Count | At::Size => {
                    self.number_byte(next[at]);
                    at += 1;
                }
            }
        }
        None
    }

    fn entry_ended(&mut self) -> At {
        self.entries -= 1;
        if self.entries > 0 { At::KeyBytes } else { At::Entries }
    }

    /// Takes a byte of a number, and goes on behind its last one.
    fn number_byte(&mut self, byte: u8) {
        self.number |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        if byte & 0x80 != 0 {
            if self.bits > 56 {
                self.at = At::Broken;
            }
            return;
        }
        // Zigzag: the lowest bit is the sign.
        let (magnitude, is_negative) = (self.number >> 1, self.number & 1 == 1);
        (self.number, self.bits) = (0, 0);
        self.at = match self.at {
            At::Entries if is_negative => {
                self.entries = magnitude + 1;
                At::EntriesBytes
            }
            At::Entries if magnitude == 0 => At::Rest(MARKER_BYTES),
            At::Entries => {
                self.entries = magnitude;
                At::KeyBytes
            }
            _ if is_negative => At::Broken,
            At::EntriesBytes => At::KeyBytes,
            At::KeyBytes if magnitude == 0 => At::ValueBytes,
            At::KeyBytes => At::Key(magnitude),
            At::ValueBytes if magnitude == 0 => self.entry_ended(),
            At::ValueBytes => At::Value(magnitude),
            At::Count => At::Size,
            At::Size => At::Rest(magnitude + MARKER_BYTES),
            other => other,
        };
    }
}
