//! Compiles the bare-metal guest (`kernel/`) and leaves the image where `src/image.rs` embeds it.
//!
//! The guest is built for the host's own target, so that the stable toolchain that builds landfall
//! is all it takes. It is not a Cargo target: Cargo would link it as a program for Linux.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=kernel");
    let variable = |name| env::var(name).map_err(|e| format!("{name}: {e}"));
    let target = variable("TARGET")?;
    if target != TARGET {
        return Err(format!(
            "landfall-testguest holds a bare-metal guest that is compiled for {TARGET} and cannot be \
             built for {target}; build on x86-64 Linux, or leave this crate out"
        ));
    }
    let image = PathBuf::from(variable("OUT_DIR")?).join("guest.elf");
    let kernel = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("kernel");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "guest", "--target", TARGET]);
    // An interrupt uses the stack it finds, so nothing may live below the stack pointer.
    rustc.args(["-Cpanic=abort", "-Copt-level=3", "-Cno-redzone=yes", "-Cstrip=symbols"]);
    rustc.args(["-Crelocation-model=static", "-Ccodegen-units=1"]);
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    rustc.args(["-Clink-arg=-Wl,-z,noexecstack", "-Clink-arg=-Wl,--build-id=none"]);
    rustc.arg(format!("-Clink-arg=-Wl,-T,{}", kernel.join("link.ld").display()));
    rustc.arg("-o").arg(&image).arg(kernel.join("main.rs"));
    // Flags meant for the programs of this build (coverage, sanitizers) do not suit the guest.
    rustc.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");

    let output = rustc.output().map_err(|e| format!("cannot run rustc: {e}"))?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::warning={line}");
    }
    output.status.success().then_some(()).ok_or_else(|| "the guest does not compile".to_owned())
}
