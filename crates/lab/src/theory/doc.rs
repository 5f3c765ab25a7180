//! The page of the experiment: `docs/theory.md`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use landfall_core::units::show_duration;

use super::chart;
use super::figures::{MeasuredGuest, RatioSpread, Ratios};
use super::landed::Landing;
use super::stage::Means;
use super::throttle::ThrottleKind;
use crate::doc_page;

/// Writes `theory.md` and its pictures into a folder.
pub fn write(folder: &Path, guests: &[MeasuredGuest], landings: &[Landing]) -> io::Result<()> {
    for guest in guests {
        let svg = chart::draw(guest).map_err(|error| io::Error::other(error.to_string()))?;
        doc_page::write_picture(&folder.join("theory"), &format!("{}.svg", guest.kind), &svg)?;
    }
    doc_page::replace_figures(
        &folder.join("theory.md"),
        "landfall bench theory",
        &figures(guests, landings),
    )
}

/// All tables, as Markdown.
pub fn figures(guests: &[MeasuredGuest], landings: &[Landing]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = tables(&mut out, guests, landings);
    out
}

fn tables(out: &mut String, guests: &[MeasuredGuest], landings: &[Landing]) -> std::fmt::Result {
    writeln!(out, "\n## Figures\n\n### Measured over `D(c)`\n")?;
    writeln!(
        out,
        "`off`: nineteen of twenty are no farther from 1. `by CPU`: c is the kernel's count."
    )?;
    writeln!(
        out,
        "`by work`: c is the CPU time that the guest's work takes undisturbed, by its own beats.\n"
    )?;
    let head = "| by CPU: median | off | by work: median | off |";
    writeln!(out, "| guest | means | lever | n {head}\n|---|---|---|--:|--:|--:|--:|--:|")?;
    for guest in guests {
        for (means, lever) in kinds() {
            let ratios = guest.ratios(|one| one.means == means && one.hold.lever == lever);
            row(
                out,
                &format!("{} | {} | {}", guest.kind, word(means), lever_word(lever)),
                &ratios,
            )?;
        }
    }
    writeln!(out, "\n### The same by hold, random, hotcold and sweep together\n")?;
    writeln!(out, "| hold | means | n {head}\n|---|---|--:|--:|--:|--:|--:|")?;
    for means in [Means::Sampling, Means::Syncs] {
        let mut holds: Vec<_> = Vec::new();
        for one in guests.iter().flat_map(|guest| &guest.seen) {
            if one.means == means && !holds.contains(&one.hold) {
                holds.push(one.hold);
            }
        }
        for hold in holds {
            // Those whose curve does not depend on when one looks.
            let steady = ["random", "hotcold", "sweep"];
            let of = || guests.iter().filter(|guest| steady.contains(&guest.kind));
            let all = |by_work: bool| {
                RatioSpread::of(of().flat_map(|guest| {
                    let chosen =
                        guest.seen.iter().filter(|one| one.means == means && one.hold == hold);
                    chosen.filter_map(move |one| {
                        guest.ratio(one, if by_work { one.work } else { one.cpu })
                    })
                }))
            };
            let ratios = Ratios { by_cpu: all(false), by_work: all(true) };
            row(out, &format!("{hold} | {}", word(means)), &ratios)?;
        }
    }
    migration(out, guests)?;
    landing(out, landings)?;
    writeln!(out, "\n### Pictures\n")?;
    guests.iter().try_for_each(|guest| writeln!(out, "![{0}](theory/{0}.svg)\n", guest.kind))
}

fn migration(out: &mut String, guests: &[MeasuredGuest]) -> std::fmt::Result {
    writeln!(out, "\n### The guest while a migration runs\n")?;
    writeln!(
        out,
        "CPU is a share of one, unthrottled; work and cost are over all passes, \
         held ones as well, with 40 ms of CPU or more.\n\n\
         | guest | CPU before | in the first pass | later | work per CPU second, of before: median | \
         least..most | us per page newly dirtied: median | least..most |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for guest in guests {
        let logging = guest.logging();
        let both = |spread: Option<RatioSpread>, digits: usize| match spread {
            Some(s) => {
                format!("{:.digits$} | {:.digits$}..{:.digits$}", s.median, s.range.0, s.range.1)
            }
            None => "- | -".to_owned(),
        };
        let pace = guest.pace;
        // A guest that lands in its first pass has no later one.
        let share = |value: f64| match value.is_finite() {
            true => format!("{value:.2}"),
            false => "-".to_owned(),
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            guest.kind,
            share(pace.before),
            share(pace.first_pass),
            share(pace.later),
            both(logging.speed, 2),
            both(logging.cost_us, 1)
        )?;
    }
    Ok(())
}

fn landing(out: &mut String, landings: &[Landing]) -> std::fmt::Result {
    writeln!(out, "\n### Landings without help\n")?;
    writeln!(
        out,
        "`beyond` the first pass: its time less its pages at the rate allowed. `beyond` the blackout: \
         by the guest's beats, less what remained at the rate of the link.\n"
    )?;
    writeln!(
        out,
        "| guest | memory | link | limit | setup | first pass | beyond | zero pages | bytes per page | \
         remaining | blackout | beyond | QEMU's downtime |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
    for one in landings {
        writeln!(
            out,
            "| {} | {} | {} | {:.1} | {} | {} | {} | {} | {:.1} | {} | {} | {} | {} |",
            one.kind,
            one.memory,
            one.link,
            one.limit,
            show_duration(one.setup),
            show_duration(one.first_pass),
            ms(one.first_pass_beyond()),
            one.first_zero,
            one.bytes_per_page,
            one.remaining,
            ms(one.blackout.as_secs_f64()),
            ms(one.switch_over()),
            one.downtime.map_or("-".to_owned(), show_duration)
        )?;
    }
    Ok(())
}

fn kinds() -> impl Iterator<Item = (Means, ThrottleKind)> {
    let levers = [ThrottleKind::Free, ThrottleKind::Quota, ThrottleKind::Pause];
    [Means::Sampling, Means::Syncs].into_iter().flat_map(move |means| levers.map(|l| (means, l)))
}

fn word(means: Means) -> &'static str {
    match means {
        Means::Sampling => "sampling",
        Means::Syncs => "syncs",
    }
}

fn lever_word(lever: ThrottleKind) -> &'static str {
    match lever {
        ThrottleKind::Free => "none",
        ThrottleKind::Quota => "quota",
        ThrottleKind::Pause => "pauses",
    }
}

fn row(out: &mut String, head: &str, ratios: &Ratios) -> std::fmt::Result {
    let Some(by_cpu) = ratios.by_cpu else { return Ok(()) };
    let both = |spread: Option<RatioSpread>| {
        spread.map_or("- | -".to_owned(), |s| format!("{:.2} | {:.2}", s.median, s.p95_off))
    };
    writeln!(
        out,
        "| {head} | {} | {} | {} |",
        by_cpu.count,
        both(Some(by_cpu)),
        both(ratios.by_work)
    )
}
