//! Identifiers in the form of a UUID of version 4: 122 bits and the marks of version and variant.

use millstream_sdk::Message;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid, Variant, Version};

/// The form that the envelope asks for: 36 characters, of version 4.
pub fn parse(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH)?;
    (id.get_version() == Some(Version::Random) && id.get_variant() == Variant::RFC4122).then_some(id)
}

/// The same message, read again, has the same id; and so have two equal payloads that a plugin
/// before made of one message.
pub fn of_position(message: &Message<'_>) -> Uuid {
    let source = message.source().as_bytes();
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_be_bytes());
    hash.update(source);
    hash.update(message.partition().to_be_bytes());
    hash.update(message.offset().to_be_bytes());
    // A null payload is another one than an empty one.
    hash.update([u8::from(message.payload().is_some())]);
    hash.update(message.payload().unwrap_or_default());
    drawn(hash)
}

/// The same text has the same id; a text that is one already stays as it is.
pub fn of_text(text: &str) -> Uuid {
    parse(text).unwrap_or_else(|| drawn(Sha256::new().chain_update(text)))
}

fn drawn(hash: Sha256) -> Uuid {
    let hash: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_random_bytes(bytes).into_uuid()
}
