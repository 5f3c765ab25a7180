//! landfall: makes live migrations of QEMU/KVM guests land inside limits their operator stated.
//!
//! **What belongs in this crate:** the command line and what people see: options, the live line, the
//! report in words, the demo and its picture. It is thin: deciding is in `landfall-core`, acting in
//! `landfall-qemu`, simulating in `landfall-sim`, guests to try things on in `landfall-testguest`.

mod accuracy;
mod asked;
mod bench;
mod cli;
mod demo;
mod foresight;
mod hooks;
mod law;
mod live;
mod migrate;
mod page;
mod picture;
mod plan;
mod recording;
mod replay;
mod serve;
mod set;
mod signals;
mod simulate;
mod theory;
mod trial;
mod words;

use std::io;
use std::panic;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, Experiment};
use landfall_qemu::stdio::eprint_line;

/// Exit status for wrong arguments, also clap's own.
const USAGE: u8 = 2;

/// Exit status where the guest's state is not known.
const UNKNOWN: u8 = 6;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprint_line(&format!("landfall: the runtime does not start: {error}"));
            return ExitCode::from(5);
        }
    };
    let run = panic::AssertUnwindSafe(|| runtime.block_on(run(cli.command)));
    // The guardian, which sees this process end without having said that all is done, lets the
    // guest go; of that nothing is known here.
    panic::catch_unwind(run).unwrap_or_else(|_| {
        eprint_line(
            "landfall: this is a bug in landfall. Its guardian lets the guest go and cancels the \
             migration; look at the guest with QMP query-status",
        );
        ExitCode::from(UNKNOWN)
    })
}

async fn run(command: Command) -> ExitCode {
    {
        match command {
            Command::Migrate(options) => ExitCode::from(migrate::run(options).await),
            Command::Plan(options) => ExitCode::from(plan::run(*options).await),
            Command::Demo(options) => ExitCode::from(demo::run(options).await),
            Command::Bench(options) => ExitCode::from(match options.experiment {
                Some(Experiment::Theory(options)) => theory::run(options).await,
                Some(Experiment::Accuracy(options)) => accuracy::run(options).await,
                None => bench::run(options).await,
            }),
            Command::Simulate(options) => ExitCode::from(simulate::run(&options)),
            Command::Replay(options) => ExitCode::from(replay::run(options).await),
            Command::Serve(options) => ExitCode::from(serve::run(options).await),
            Command::Set(options) => ExitCode::from(set::run(options).await),
            Command::Guardian => {
                signals::ignore();
                landfall_qemu::guardian::run_guardian().await;
                ExitCode::SUCCESS
            }
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "landfall", &mut io::stdout());
                ExitCode::SUCCESS
            }
            Command::Manual => match cli::manual(&mut io::stdout()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprint_line(&format!("landfall: the manual cannot be written: {error}"));
                    ExitCode::from(USAGE)
                }
            },
        }
    }
}
