//! The pages people see: launch page, refusals, portal. Server-rendered; scripts only add comfort.
//!
//! Everything here is pure (values in, a page out) except the embedded assets and icons.

pub(crate) mod assets;
pub(crate) mod choose;
pub(crate) mod html;
pub(crate) mod icon;
pub(crate) mod launch;
pub(crate) mod login;
pub(crate) mod page;
pub(crate) mod portal;
pub(crate) mod refused;
pub(crate) mod running;
pub(crate) mod share;
#[cfg(test)]
pub(crate) mod tests;
