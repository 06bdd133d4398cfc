//! P4, P6, P7: plugins that do harm. Each case is a plugin, of the crate beside this file or in
//! WebAssembly text where no Rust can say it, and the outcome that it must have.

mod calls;
mod files;
mod text;
mod watch;
