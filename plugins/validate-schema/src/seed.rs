//! The seed of hash tables. jsonschema's tables ask `getrandom` for one, which a plugin does not
//! have; its crate calls this instead (`.cargo/config.toml` says so).

use std::mem::MaybeUninit;

/// Fixed bytes: what is in the tables comes from the schema, so nobody can choose it to collide.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(dest: *mut u8, len: usize) -> Result<(), getrandom::Error> {
    // SAFETY: getrandom gives a place for `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(dest.cast::<MaybeUninit<u8>>(), len) };
    for (seed, byte) in (0_u8..).cycle().zip(bytes) {
        byte.write(seed.wrapping_mul(151).wrapping_add(89));
    }
    Ok(())
}
