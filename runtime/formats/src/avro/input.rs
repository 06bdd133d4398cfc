//! What apache-avro reads from. It takes the end of the input for a null in places, and goes as deep as the
//! input says; both are noticed here.

use std::io::{self, Read};

use crate::{Error, MAX_DEPTH};

/// Stack that one value may take to be decoded. A level of a record in a union takes about 1.5 KiB of it.
const MAX_STACK_BYTES: usize = 384 << 10;

pub struct Input<'a> {
    rest: &'a [u8],
    ran_out: bool,
    too_deep: bool,
    /// Where the stack was when reading began.
    stack: usize,
}

/// About where the stack ends.
#[inline(never)]
fn stack_address() -> usize {
    let here = 0u8;
    std::ptr::from_ref(&here).addr()
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes, ran_out: false, too_deep: false, stack: stack_address() }
    }

    /// What is decoded of bytes that are one value and nothing else.
    pub fn whole<T>(
        bytes: &'a [u8],
        decode: impl FnOnce(&mut Input<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut input = Input::new(bytes);
        let value = decode(&mut input)?;
        input.at_end()?;
        Ok(value)
    }

    /// What was read, if it was all there.
    pub fn checked<T>(&self, read: Result<T, Error>) -> Result<T, Error> {
        if self.too_deep {
            return Err(Error::new(format!("nested far deeper than {MAX_DEPTH} levels")));
        }
        if self.ran_out {
            return Err(Error::new("not Avro of this schema: it ends in the middle of the value"));
        }
        read
    }

    /// # Errors
    /// There is more.
    pub fn at_end(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Error::new(format!("not Avro of this schema: {more} bytes behind the value"))),
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stack.abs_diff(stack_address()) > MAX_STACK_BYTES {
            self.too_deep = true;
            return Err(io::Error::other("nested too deep"));
        }
        let read = buffer.len().min(self.rest.len());
        self.ran_out |= read < buffer.len();
        let (first, rest) = self.rest.split_at(read);
        buffer[..read].copy_from_slice(first);
        self.rest = rest;
        Ok(read)
    }
}
