//! `landfall bench accuracy`: forecasts, and the simulator, against real migrations.
//!
//! Every guest of the matrix is moved over every link by every policy that makes sense for it. The
//! forecast is made before each start, of what the probe found; the simulator is told what the guest
//! was made to do. Both are set against what was then measured. Nothing is left out: a migration
//! that ends otherwise than expected is in the table, too.

mod doc;
mod matrix;

use std::path::PathBuf;

use clap::Args;
use landfall_core::report::{Class, Outcome, Report};
use landfall_core::requirements::Aggression;
use landfall_core::units::ByteRate;
use landfall_migration::preflight::all_levers;
use landfall_migration::progress::ProgressLine;
use landfall_qemu::driver::Interrupts;
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_sim::{Expected, Run, Seed, Setup};
use landfall_testguest::IsolatedCpus;
use serde_json::json;

use crate::error::ExperimentError;
use crate::run::{LINK_HEADROOM, LabRun, LabRunError, isolate_guest_cpu};
use matrix::{KnownGuest, MatrixCell};

/// Moves guests of known behaviour over two links by all policies, and sets what was forecast before
/// each start, and what the simulator makes of it, beside what was measured (15 minutes). Needs QEMU,
/// root, and a machine with nothing else to do.
#[derive(Debug, Args)]
pub struct AccuracyArgs {
    /// Folder whose accuracy.md gets the tables
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// How often to go through the matrix
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    pub repeat: usize,

    /// Print every migration as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// One migration: the forecast, what was measured, and what the simulator makes of it.
#[derive(Debug)]
struct Row {
    guest: &'static str,
    way: &'static str,
    link: ByteRate,
    /// The class that follows from how the guest was made.
    truth: Class,
    expected: Option<Expected>,
    report: Report,
    simulated: Option<Run>,
}

/// Makes the comparison.
///
/// # Errors
/// [`ExperimentError`].
pub async fn run(options: AccuracyArgs, mut stops: Interrupts) -> Result<(), ExperimentError> {
    let isolated_cpus = isolate_guest_cpu();
    let mut rows = Vec::new();
    let cases = matrix::cases();
    for turn in 1..=options.repeat.max(1) {
        for (number, case) in cases.iter().enumerate() {
            let what = format!("{} by {} at {}", case.guest.name, case.way.name, case.link);
            let (count, turns) = (cases.len(), options.repeat.max(1));
            eprint_line(&format!("{} of {count} ({turn} of {turns}): {what}", number + 1));
            let row = row(case, isolated_cpus, &mut stops).await;
            rows.push(row.map_err(|error| ExperimentError::Run { what, error })?);
        }
    }
    if options.json {
        print_line(&json!(rows.iter().map(doc::as_json).collect::<Vec<_>>()).to_string());
    } else {
        print_line(&doc::figures(&rows));
    }
    if let Some(folder) = options.docs {
        doc::write(&folder, &rows).map_err(|error| ExperimentError::Docs { folder, error })?;
    }
    Ok(())
}

async fn row(
    case: &MatrixCell,
    isolated_cpus: Option<IsolatedCpus>,
    stops: &mut Interrupts,
) -> Result<Row, LabRunError> {
    let asked = case.asked();
    let run = LabRun {
        guest: case.guest.name,
        spec: (case.guest.spec)(case.link),
        policy: case.way.policy,
        asked: asked.clone(),
        aggression: case.way.aggression(),
        link: case.link,
        record: None,
        isolated_cpus,
    };
    let line = ProgressLine::new();
    let seen = run.run(stops, &mut |tick| line.on_tick(tick)).await;
    line.clear();
    let seen = seen?;
    let prior = &seen.preflight.prior;
    let curve = case.guest.curve(case.link).sped_up(seen.relative_speed.unwrap_or(1.0));
    let link = landfall_sim::Link::steady(ByteRate(case.link.0 * LINK_HEADROOM));
    let simulated = Setup::from_prior(prior, 1, curve.clone(), link).map(|known| {
        let guest = landfall_sim::Guest { memory: run.spec.memory, ..known.guest };
        let setup = Setup {
            requirements: asked.clone(),
            aggression: run.aggression,
            levers: all_levers(),
            guest,
            ..known
        };
        simulate(&setup, case.way.policy)
    });
    Ok(Row {
        guest: case.guest.name,
        way: case.way.name,
        link: case.link,
        truth: case.class(&curve, prior),
        expected: seen.expected,
        report: seen.report,
        simulated: simulated.flatten(),
    })
}

/// How many moments of QEMU's windows are tried.
const MOMENTS: u64 = 9;

/// The run of median length.
fn simulate(setup: &Setup, policy: &str) -> Option<Run> {
    let run = |seed| {
        let mut policy = landfall_core::policy::by_name(policy).ok()?;
        Some(landfall_sim::run(setup, policy.as_mut(), Seed(seed)))
    };
    let mut runs: Vec<Run> = (0..MOMENTS).filter_map(run).collect();
    runs.sort_by_key(|run| run.measured.total);
    let middle = runs.len() / 2;
    (!runs.is_empty()).then(|| runs.swap_remove(middle))
}

impl Row {
    /// Relative error of a figure of the forecast; `None` where there is none of either.
    fn forecast_error(&self, figure: Figure) -> Option<f64> {
        let forecast = self.expected.as_ref()?.forecast?;
        let expected = match figure {
            Figure::Total => forecast.total_s.mid,
            Figure::Lost => forecast.guest_cpu_lost_s.mid,
        };
        self.error(figure, expected)
    }

    /// The same of the simulation.
    fn simulation_error(&self, figure: Figure) -> Option<f64> {
        let measured = self.simulated.as_ref()?.measured;
        let simulated = match figure {
            Figure::Total => measured.total.as_secs_f64(),
            Figure::Lost => measured.losses.guest_cpu?.as_secs_f64(),
        };
        self.error(figure, simulated)
    }

    fn error(&self, figure: Figure, expected: f64) -> Option<f64> {
        let found = match figure {
            Figure::Total => self.report.total_s?,
            Figure::Lost => self.report.guest_cpu_lost_s.filter(|lost| *lost >= WORTH_TELLING)?,
        };
        (self.report.outcome == Outcome::Landed).then(|| expected / found - 1.0)
    }
}

/// Of a tenth of a second lost, a part of itself says nothing.
const WORTH_TELLING: f64 = 0.3;

/// What a forecast is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Total,
    Lost,
}

impl matrix::PolicyVariant {
    fn aggression(&self) -> Aggression {
        Aggression::new(self.dial).unwrap_or_default()
    }
}

impl KnownGuest {
    fn curve(&self, link: ByteRate) -> landfall_core::model::DirtyCurve {
        landfall_core::model::DirtyCurve::new((self.sets)(link))
    }
}
