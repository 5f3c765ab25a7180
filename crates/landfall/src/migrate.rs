//! `landfall migrate`: one migration, steered to its end.

use std::env;
use std::io::{self, Write};

use landfall_core::report::Report;
use landfall_core::requirements::settings::Demands;
use landfall_core::requirements::{Aggression, Requirements};
use landfall_qemu::driver::{self, Order};
use landfall_qemu::stdio::eprint_line;
use landfall_script::Tell;

use crate::cli::{Migrate, PostCopy};
use crate::foresight::{self, Foresight};
use crate::hooks::{Facts, Hooks};
use crate::live::Live;
use crate::recording::Recorder;
use crate::recording::write::Begun;
use crate::{USAGE, signals, words};

/// Runs it and gives the exit status.
pub async fn run(options: Box<Migrate>) -> u8 {
    if options.own_session {
        // Fails where it leads a session already, which is what is wanted.
        let _ = rustix::process::setsid();
    }
    let Demands { requirements: asked, aggression } = match options.asked.demands() {
        Ok(demands) => demands,
        Err(problem) => return usage(&problem),
    };
    let policy = &options.asked.policy;
    let live = Live::new();
    let mut order = match order(&options, &asked, aggression, &live.teller()) {
        Ok(order) => order,
        Err(problem) => return usage(&problem),
    };
    let mut recorder = match &options.record {
        None => None,
        Some(path) => {
            let begun = Begun {
                policy: policy.name().to_owned(),
                script: policy.script(),
                aggression,
                requirements: asked.clone(),
                prior: order.prior.clone(),
            };
            match Recorder::create(path, begun) {
                Ok(recorder) => Some(recorder),
                Err(problem) => return usage(&problem),
            }
        }
    };
    let mut stops = signals::listen();
    let mut hooks = Hooks::new(options.hook.clone(), Facts::of(&options, &asked, aggression));
    let foresight = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(reason),
        found = Foresight::gain(&order.source, &asked, options.asked.probe) => {
            found.map_err(|error| error.to_string())
        }
    };
    let foresight = match foresight {
        Ok(foresight) => foresight,
        Err(reason) => {
            let report = Report::refused(policy.name(), reason);
            return end(report, recorder, hooks, &asked, options.json).await;
        }
    };
    let expected = foresight.expect(policy, &asked, aggression);
    if let Some(expected) = &expected
        && !options.json
    {
        eprint_line(&foresight::in_words(expected));
    }
    order.forecast = expected.and_then(|expected| expected.forecast);
    hooks.facts().know(&foresight, order.forecast);
    order.prior = foresight.prior;
    if let Some(recorder) = &mut recorder {
        recorder.knows(&order.prior);
    }
    let leave = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(reason),
        leave = hooks.before_start() => leave,
    };
    if let Err(reason) = leave {
        let report = Report::refused(policy.name(), reason);
        return end(report, recorder, hooks, &asked, options.json).await;
    }
    let mut asked = asked;
    let report = driver::migrate(order, &mut stops, &mut |look| {
        live.look(look);
        hooks.look(look);
        if let Some(changed) = look.changed {
            asked = changed.requirements.clone();
        }
        if let Some(recorder) = &mut recorder {
            recorder.look(look);
        }
    })
    .await;
    live.clear();
    end(report, recorder, hooks, &asked, options.json).await
}

/// Writes and shows the report, then tells the hooks; gives the exit status.
async fn end(
    report: Report,
    recorder: Option<Recorder>,
    hooks: Hooks,
    asked: &Requirements,
    json: bool,
) -> u8 {
    if let Some(recorder) = recorder {
        recorder.report(&report);
    }
    show(&report, asked, json);
    hooks.ended(&report).await;
    report.exit_status()
}

fn order(
    options: &Migrate,
    asked: &Requirements,
    aggression: Aggression,
    tell: &Tell,
) -> Result<Order, String> {
    Ok(Order {
        source: options.source.clone(),
        destination: options.destination.clone(),
        destination_qmp: options.destination_qmp.clone(),
        requirements: asked.clone(),
        aggression,
        policy: options.asked.policy.policy(tell),
        post_copy: options.post_copy == PostCopy::Allow,
        prior: landfall_core::model::prior::Prior::default(),
        forecast: None,
        guardian: env::current_exe()
            .map_err(|error| format!("landfall cannot find its own program: {error}"))?,
    })
}

fn usage(problem: &str) -> u8 {
    eprint_line(&format!("landfall: {problem}"));
    USAGE
}

/// Prints the report. Nobody may be left to read it; the exit status tells what it is in any case.
fn show(report: &Report, asked: &Requirements, json: bool) {
    if json {
        match serde_json::to_string(report) {
            Ok(text) => drop(writeln!(io::stdout(), "{text}")),
            Err(error) => {
                eprint_line(&format!("landfall: the report cannot be written as JSON: {error}"))
            }
        }
    } else {
        drop(write!(anstream::stdout(), "{}", words::report(report, asked)));
    }
}
