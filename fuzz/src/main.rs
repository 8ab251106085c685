//! Every parser of Skep under a fuzzer: one binary, in which `SKEP_FUZZ_TARGET` picks the target.
//!
//! Invariant of every target: it panics only when a promise is broken; refusing input is no finding. One binary, because
//! linking is most of what building a target costs. The server's config and the importer belong to a binary crate, so
//! their sources are taken in as modules here.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "modules of another crate, used in part")]

#[path = "../../crates/skep/src/config/mod.rs"]
mod config;
#[path = "../../crates/skep/src/import/mod.rs"]
mod import;
// What the config asks of the control plane is pure. The control plane itself, with its database, stays out.
#[path = "../../crates/control/src/portal.rs"]
mod portal;
#[path = "../../crates/control/src/services/ask.rs"]
mod services;
mod targets;

mod cli;

extern crate self as skep_control;
pub use portal::{PortalConfig, PortalSection};

use std::process::exit;
use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let wanted = std::env::var("SKEP_FUZZ_TARGET").unwrap_or_default();
        let Some((_, run)) = targets::ALL.iter().find(|(name, _)| *name == wanted) else {
            for (name, _) in targets::ALL {
                println!("{name}");
            }
            exit(i32::from(wanted != "list"));
        };
        let _ = TARGET.set(*run);
    },
    |data: &[u8]| {
        if let Some(run) = TARGET.get() {
            run(data);
        }
    }
);
