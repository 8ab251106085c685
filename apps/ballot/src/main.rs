//! The binary: everything is in the library, so that tests run the same code.

#[cfg(not(feature = "sim"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(not(feature = "sim"))]
fn main() -> std::process::ExitCode {
    ballot::cli::main()
}

/// A simulation build has no real network or disk to serve with.
#[cfg(feature = "sim")]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
