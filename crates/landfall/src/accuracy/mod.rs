//! `landfall bench accuracy`: forecasts, and the simulator, against real migrations.
//!
//! Every guest of the matrix is moved over every link by every policy that makes sense for it. The
//! forecast is made before each start, of what the probe found; the simulator is told what the guest
//! was made to do. Both are set against what was then measured. Nothing is left out: a migration
//! that ends otherwise than expected is in the table, too.

mod matrix;
mod page;

use landfall_core::report::{Class, Outcome, Report};
use landfall_core::requirements::Aggression;
use landfall_core::units::ByteRate;
use landfall_qemu::driver::Stops;
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_sim::{Expected, Qemu, Run, Seed, Setup};
use landfall_testguest::Processors;
use serde_json::json;

use crate::cli::Accuracy;
use crate::foresight::levers;
use crate::live::Live;
use crate::signals;
use crate::trial::{Trial, TrialError, set_a_processor_apart};
use matrix::{Case, Guest};

/// One migration: what was expected, what came, and what the simulator makes of it.
#[derive(Debug)]
pub struct Row {
    pub guest: &'static str,
    pub way: &'static str,
    pub link: ByteRate,
    /// The class that follows from how the guest was made.
    pub truth: Class,
    pub expected: Option<Expected>,
    pub report: Report,
    pub simulated: Option<Run>,
}

/// Makes the comparison and gives the exit status.
pub async fn run(options: Accuracy) -> u8 {
    let mut stops = signals::listen();
    let processors = set_a_processor_apart();
    let mut rows = Vec::new();
    let cases = matrix::cases();
    for turn in 1..=options.repeat.max(1) {
        for (number, case) in cases.iter().enumerate() {
            eprint_line(&format!(
                "{} of {} ({turn} of {}): {} by {} at {}",
                number + 1,
                cases.len(),
                options.repeat.max(1),
                case.guest.name,
                case.way.name,
                case.link
            ));
            match row(case, processors, &mut stops).await {
                Ok(row) => rows.push(row),
                Err(problem) => {
                    eprint_line(&format!("landfall: {problem}"));
                    return 5;
                }
            }
        }
    }
    if options.json {
        print_line(&json!(rows.iter().map(page::as_json).collect::<Vec<_>>()).to_string());
    } else {
        print_line(&page::figures(&rows));
    }
    if let Some(folder) = &options.docs
        && let Err(error) = page::write(folder, &rows)
    {
        eprint_line(&format!("landfall: --docs {}: {error}", folder.display()));
        return 5;
    }
    0
}

async fn row(
    case: &Case,
    processors: Option<Processors>,
    stops: &mut Stops,
) -> Result<Row, TrialError> {
    let asked = case.asked();
    let trial = Trial {
        guest: case.guest.name,
        spec: (case.guest.spec)(case.link),
        policy: case.way.policy,
        asked: asked.clone(),
        aggression: case.way.aggression(),
        link: case.link,
        record: None,
        processors,
    };
    let live = Live::new();
    let seen = trial.run(stops, &mut |look| live.look(look)).await;
    live.clear();
    let seen = seen?;
    let prior = &seen.foresight.prior;
    let curve = case.guest.curve(case.link).sped_up(seen.zeal.unwrap_or(1.0));
    let simulated = prior.contents.zip(prior.pace).map(|(contents, pace)| {
        let guest = landfall_sim::Guest {
            contents,
            pace: landfall_core::model::CpuTime(pace.0),
            ..landfall_sim::Guest::with_curve(trial.spec.memory, curve.clone())
        };
        let link = landfall_sim::Link::steady(ByteRate(case.link.0 * crate::trial::ROOM));
        let setup = Setup {
            requirements: asked.clone(),
            aggression: trial.aggression,
            prior: prior.clone(),
            levers: levers(),
            qemu: Qemu::of(prior),
            ..Setup::new(guest, link)
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

impl matrix::Way {
    fn aggression(&self) -> Aggression {
        Aggression::new(self.dial).unwrap_or_default()
    }
}

impl Guest {
    fn curve(&self, link: ByteRate) -> landfall_core::model::DirtyCurve {
        landfall_core::model::DirtyCurve::new((self.sets)(link))
    }
}
