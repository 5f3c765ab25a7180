//! The commands: a file or a folder for each.

mod migrate;
mod plan;
mod replay;
mod set;
mod simulate;

use std::io;

use clap::CommandFactory;
use landfall_qemu::stdio::eprint_line;

use crate::cli::{self, Cli, Command};
use crate::{USAGE, signals, web};

/// Runs a command and returns the exit status.
pub async fn run(command: Command) -> u8 {
    match command {
        Command::Migrate(options) => migrate::run(options).await,
        Command::Plan(options) => plan::run(*options).await,
        #[cfg(feature = "lab")]
        Command::Demo(options) => landfall_lab::demo::run(options, signals::listen()).await,
        #[cfg(feature = "lab")]
        Command::Bench(options) => landfall_lab::bench::run(options, signals::listen()).await,
        Command::Simulate(options) => simulate::run(&options),
        Command::Replay(options) => replay::run(options).await,
        Command::Serve(options) => web::run(options).await,
        Command::Set(options) => set::run(options).await,
        Command::Guardian => {
            signals::ignore();
            landfall_qemu::guardian::run_guardian().await;
            0
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "landfall", &mut io::stdout());
            0
        }
        Command::Manual => match cli::manual(&mut io::stdout()) {
            Ok(()) => 0,
            Err(error) => {
                eprint_line(&format!("landfall: the manual cannot be written: {error}"));
                USAGE
            }
        },
    }
}
