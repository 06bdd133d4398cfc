//! Against a real registry (`tests/services`), and against servers of the tests' own for what that one
//! does not do: be wrong, slow, encrypted, or ask for credentials.

mod against_apicurio;
mod caches;
mod front;
mod troubles;
mod verdicts;

/// The services that all tests of the project use, each a part of them.
#[path = "../../../../tests/services"]
mod services {
    mod installed;
    #[allow(dead_code, reason = "the tests of the host use the rest")]
    pub mod registry;
    #[allow(dead_code, reason = "the tests of the host use the rest")]
    mod server;
}

/// What the services need of the tests they belong to.
mod support {
    /// No single event of a test takes longer, on a slow machine under load.
    pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);
}
