//! Whether a message carries a valid HMAC-SHA-256 signature of its payload in a header, as webhooks of
//! GitHub, Shopify and many others do: in the plugin `verify-signature` and natively in a source.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use millstream_secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

/// Length of an HMAC-SHA-256 in bytes.
const SIGNATURE_BYTES: usize = 32;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Header that holds the signature; case does not matter.
    pub header: String,
    /// What stands before the signature in the header, such as `sha256=`.
    #[serde(default)]
    pub prefix: String,
    /// The secret that the payload was signed with.
    pub secret: Option<Secret>,
    /// Several secrets, any of which may have been used, so that they can be changed one after the
    /// other. Instead of `secret` or beside it.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// How the signature is written.
    #[serde(default)]
    pub encoding: Encoding,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// 64 hexadecimal digits, large or small.
    #[default]
    Hex,
    /// RFC 4648, with padding.
    Base64,
}

/// Why a configuration cannot be used; says nothing of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// JSON pointer to the field.
    pub field: String,
    pub message: &'static str,
}

/// Why a message is refused; says nothing of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `signature-missing`, `signature-malformed` or `signature-mismatch`.
    pub code: &'static str,
    pub reason: String,
}

/// The check of one configuration.
#[derive(Clone)]
pub struct Check {
    header: String,
    prefix: String,
    encoding: Encoding,
    /// One for each secret, ready to be fed.
    macs: Vec<Hmac<Sha256>>,
}

impl Check {
    /// # Errors
    /// A header without a name, no secret, an empty one.
    pub fn new(config: Config) -> Result<Check, Mistake> {
        let Config { header, prefix, secret, secrets, encoding } = config;
        let mistake = |field: &str, message| Mistake { field: field.to_owned(), message };
        if header.is_empty() {
            return Err(mistake("/header", "name the header that holds the signature"));
        }
        if secret.is_none() && secrets.is_empty() {
            return Err(mistake("/secret", "give a secret here, or several in `secrets`"));
        }
        let one = secret.iter().map(|secret| ("/secret".to_owned(), secret));
        let many = secrets.iter().enumerate().map(|(index, secret)| (format!("/secrets/{index}"), secret));
        let macs = one.chain(many).map(|(field, secret)| {
            if secret.expose().is_empty() {
                return Err(mistake(&field, "an empty secret protects nothing"));
            }
            Hmac::new_from_slice(secret.expose().as_bytes())
                .map_err(|_| mistake(&field, "this secret cannot be a key"))
        });
        let macs = macs.collect::<Result<_, _>>()?;
        Ok(Check { header, prefix, encoding, macs })
    }

    /// The header to be looked for, of which the first counts.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// `header` is the value of that header, if it is there; a null payload counts as an empty one.
    ///
    /// # Errors
    /// There is no valid signature of the payload.
    pub fn check(&self, header: Option<&[u8]>, payload: Option<&[u8]>) -> Result<(), Refusal> {
        let Some(header) = header else {
            let reason = format!("header `{}` is missing", self.header);
            return Err(Refusal { code: "signature-missing", reason });
        };
        let signature = self.signature(header)?;
        let signed = self.macs.iter().any(|mac| {
            // Compares in constant time.
            mac.clone().chain_update(payload.unwrap_or_default()).verify_slice(&signature).is_ok()
        });
        if signed {
            return Ok(());
        }
        let header = &self.header;
        let reason =
            format!("the payload is not what was signed in header `{header}`, or with another secret");
        Err(Refusal { code: "signature-mismatch", reason })
    }

    fn signature(&self, header: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Refusal> {
        let malformed = |expected: &str| Refusal {
            code: "signature-malformed",
            reason: format!("header `{}` {expected}", self.header),
        };
        let Some(text) = header.strip_prefix(self.prefix.as_bytes()) else {
            return Err(malformed(&format!("does not start with `{}`", self.prefix)));
        };
        match self.encoding {
            Encoding::Hex => {
                let mut signature = [0; SIGNATURE_BYTES];
                hex::decode_to_slice(text, &mut signature)
                    .map_err(|_| malformed("does not hold 64 hexadecimal digits"))?;
                Ok(signature)
            }
            Encoding::Base64 => STANDARD
                .decode(text)
                .ok()
                .and_then(|signature| signature.try_into().ok())
                .ok_or_else(|| malformed("does not hold 32 bytes in base64")),
        }
    }
}
