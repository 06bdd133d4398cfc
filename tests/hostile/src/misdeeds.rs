//! What the host must survive, each in a few lines. `black_box` keeps the compiler from seeing that
//! it is in vain.

use std::hint::black_box;

use millstream_sdk::log::{self, Level};

pub fn loop_forever() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

pub fn grow() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; 1 << 20]));
    }
}

pub fn recurse() -> ! {
    #[inline(never)]
    #[allow(unconditional_recursion, reason = "that is the misdeed")]
    fn deeper(depth: u64) -> u64 {
        black_box(deeper(black_box(depth + 1)) + 1)
    }
    panic!("came back from {} calls", deeper(0));
}

pub fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    panic!("a trap");
}

pub fn log_forever(row: u32) -> ! {
    loop {
        log::write(
            Level::Info,
            format_args!("row {row}: and another line for the log, as the last one was so nice"),
        );
    }
}

/// About a millisecond for each million turns.
pub fn burn(million_turns: u32) {
    let mut turns = 0_u64;
    while turns < u64::from(million_turns) * 1_000_000 {
        turns = black_box(turns + 1);
    }
}

pub fn bad_utf8() -> String {
    let bytes = b"not text: \xff\xfe".to_vec();
    // SAFETY: nothing in this module reads the string as text; only its pointer and its length
    // cross to the host.
    unsafe { String::from_utf8_unchecked(bytes) }
}
