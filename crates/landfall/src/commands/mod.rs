//! The commands: a file or a folder for each.

mod migrate;
mod plan;
mod release;
mod replay;
mod set;
mod simulate;

pub use release::run_at_start as release_at_start;

use std::io;

use clap::CommandFactory;

use crate::cli::{self, Cli, Command};
use crate::command_error::CommandError;
use crate::{signals, web};

/// Runs a command and returns the exit status of one that came to its end.
///
/// # Errors
/// [`CommandError`], with the exit status of its kind.
pub async fn run(command: Command) -> Result<u8, CommandError> {
    match command {
        Command::Migrate(options) => return migrate::run(options).await,
        Command::Release(options) => return release::run(&options).await,
        Command::Replay(options) => return replay::run(options).await,
        Command::Plan(options) => plan::run(*options).await?,
        #[cfg(feature = "lab")]
        Command::Demo(options) => {
            let experiment = landfall_lab::demo::run(options, signals::listen());
            experiment.await.map_err(experiment_error)?;
        }
        #[cfg(feature = "lab")]
        Command::Bench(options) => {
            let experiment = landfall_lab::bench::run(options, signals::listen());
            experiment.await.map_err(experiment_error)?;
        }
        Command::Simulate(options) => simulate::run(&options)?,
        Command::Serve(options) => web::run(options).await?,
        Command::Set(options) => set::run(options).await?,
        Command::Guardian => {
            signals::ignore();
            landfall_qemu::guardian::run_guardian().await;
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "landfall", &mut io::stdout());
        }
        Command::Manual => {
            let unwritable = |error| format!("the manual cannot be written: {error}");
            cli::manual(&mut io::stdout()).map_err(unwritable).map_err(CommandError::usage)?;
        }
    }
    Ok(0)
}

#[cfg(feature = "lab")]
fn experiment_error(error: landfall_lab::ExperimentError) -> CommandError {
    if error.is_usage() { CommandError::usage(error) } else { CommandError::failed(error) }
}
