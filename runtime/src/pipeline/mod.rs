//! The journey of a message: the only code that can settle one.
