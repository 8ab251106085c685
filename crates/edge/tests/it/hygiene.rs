//! What must not get through.
