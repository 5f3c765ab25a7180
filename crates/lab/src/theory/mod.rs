//! `landfall bench theory`: does throttling act as time dilation?
//!
//! The theory: a guest that got `c` seconds of CPU time has dirtied `D(c)` distinct memory, however it was
//! throttled. Here guests of known behaviour are measured unthrottled and throttled in two ways, by two
//! independent means, and each measurement is compared with the curve of the unthrottled guest.
//!
//! [`sampled`] measures by QEMU's page sampling, [`synced`] by the dirty bitmap of a running
//! migration; [`landed`] measures what a migration costs beyond its bytes. [`stage`] has the guest,
//! [`throttle`] the throttles, [`trace`] its CPU time; [`figures`], [`doc`] and [`chart`] show the
//! results.

mod chart;
mod doc;
pub(crate) mod error;
mod figures;
mod landed;
mod sampled;
mod stage;
mod synced;
mod throttle;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use landfall_core::units::{ByteRate, Bytes, Share};
use landfall_qemu::driver::Interrupts;
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_testguest::{GuestSpec, PagesPerSecond, WorkPhase, Workload};
use serde_json::json;

use figures::MeasuredGuest;
use landed::Landing;
use stage::TheoryStage;

use crate::error::ExperimentError;
use error::TheoryError;

/// Measures how much distinct memory guests of known behaviour dirty, free and held by quota and by
/// pauses, against the dirty curve of the free guest (6 minutes). Needs QEMU 8.2, root, and a machine
/// with nothing else to do.
#[derive(Debug, Args)]
pub struct TheoryArgs {
    /// Folder whose theory.md gets the figures, and whose theory/ the pictures
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// Print every measurement as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Fast enough not to bound the later passes.
const LINK: ByteRate = ByteRate::mb(100);

/// The guests: 96 MiB of 256 are written by all.
fn guests() -> Vec<(&'static str, Workload)> {
    let rate = PagesPerSecond;
    let phase = |ms, rate, percent: f64| WorkPhase {
        lasts: Duration::from_millis(ms),
        rate: PagesPerSecond(rate),
        memory: Share::clamped(percent / 100.0),
    };
    vec![
        ("20 000 pages/s, all alike", Workload::Random { rate: rate(20_000) }),
        (
            "40 000 pages/s, nine of ten in a tenth of the memory",
            Workload::HotCold {
                rate: rate(40_000),
                hot_writes: Share::clamped(0.9),
                hot_memory: Share::clamped(0.1),
            },
        ),
        ("every page in turn, flat out", Workload::Sweep),
        (
            "40 000 pages/s for 0.2 s of CPU, then 2 000 for 0.2 s",
            Workload::Phases { busy: phase(200, 40_000, 100.0), quiet: phase(200, 2_000, 10.0) },
        ),
        ("wakes a hundred times a second for one page", Workload::Idle),
    ]
}

/// Makes the experiment.
///
/// # Errors
/// [`ExperimentError`].
pub async fn run(options: TheoryArgs, mut stops: Interrupts) -> Result<(), ExperimentError> {
    let (guests, landings) = tokio::select! {
        biased;
        reason = stops.recv() => {
            return Err(ExperimentError::Interrupted(reason.unwrap_or_default()));
        }
        done = experiment() => done?,
    };
    if options.json {
        print_line(&json!({ "guests": guests, "landings": landings }).to_string());
    } else {
        print_line(&doc::figures(&guests, &landings));
    }
    if let Some(folder) = options.docs {
        let written = doc::write(&folder, &guests, &landings);
        written.map_err(|error| ExperimentError::Docs { folder, error })?;
    }
    Ok(())
}

async fn experiment() -> Result<(Vec<MeasuredGuest>, Vec<Landing>), TheoryError> {
    let mut all = Vec::new();
    for (about, kind) in guests() {
        eprint_line(&format!("{}: {about}", kind.name()));
        let spec = GuestSpec { working_set: Bytes::mib(96), ..GuestSpec::new(kind) };
        let mut stage = TheoryStage::boot(&spec, LINK).await?;
        let mut seen = sampled::all(&mut stage).await?;
        eprint_line(&format!(
            "{}: {} times by sampling, now by migration",
            kind.name(),
            seen.len()
        ));
        let (by_syncs, pace) = synced::all(&mut stage).await?;
        seen.extend(by_syncs);
        all.push(MeasuredGuest::new(kind.name(), about, seen, pace));
    }
    eprint_line("landings");
    Ok((all, landed::all().await?))
}
