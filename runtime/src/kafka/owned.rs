//! What librdkafka makes and its caller has to free.

use std::ptr::NonNull;

use rdkafka::error::KafkaError;

/// Frees something of librdkafka when it goes.
pub struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    pub fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Owned<T>, KafkaError> {
        let error = || KafkaError::AdminOpCreation("librdkafka made nothing".to_owned());
        NonNull::new(pointer).map(|pointer| Owned(pointer, free)).ok_or_else(error)
    }

    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: each `Owned` is made of what a function of librdkafka has just returned, with the
        // function that its header names for freeing that, and is freed nowhere else.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}
