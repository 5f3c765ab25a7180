//! Distinct memory dirtied under a hold, by the dirty bitmap of a running migration.
//!
//! The migration is kept from ending by a downtime limit of a millisecond, and its passes are made
//! as long as wanted by the bandwidth limit: what a look at the bitmap found is let through in so
//! much time.

use std::time::{Duration, Instant};

use landfall_core::telemetry::sample::Ram;
use landfall_core::units::{ByteRate, Bytes};
use landfall_qemu::monitor::MigrationParameters;
use landfall_qemu::qmp::RESPONSE_TIMEOUT;
use tokio::time::sleep;

use super::error::TheoryError;
use super::stage::{Means, StageObservation, TheoryStage};
use super::throttle::{ThrottleKind, ThrottleSetting};

/// How often QEMU is asked whether it has looked at its bitmap again.
const ASK: Duration = Duration::from_millis(4);

/// Holds, and for how long a pass is to last under each, in milliseconds.
fn schedule() -> Vec<(ThrottleSetting, u64)> {
    let free = [100, 250, 500, 1000, 2000].map(|ms| (ThrottleSetting::FREE, ms));
    let quota = [(50, 100), (20, 100), (10, 100), (5, 100), (20, 20), (5, 20), (20, 250), (5, 250)];
    let quota = quota.map(|(share, ms)| ThrottleSetting::new(ThrottleKind::Quota, share, ms));
    let pause = [50, 20, 10, 5].map(|share| ThrottleSetting::new(ThrottleKind::Pause, share, 100));
    let held = [&quota[..], &pause[..]].concat().into_iter();
    free.into_iter().chain(held.flat_map(|hold| [(hold, 500), (hold, 1200)])).collect()
}

/// A pass that takes longer than this, and it was asked for less, leaves the rest unmeasured.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pass of which the length is known no better is left out: the vCPU was held, or the host busy,
/// when QEMU was asked.
const DOUBTFUL: f64 = 0.05;

/// What the guest had of its CPU while a migration ran.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct CpuShares {
    /// Share of a CPU before the migration.
    pub before: f64,
    /// In the first pass.
    pub first_pass: f64,
    /// In the later passes without a hold.
    pub later: f64,
}

/// Migrates the guest without letting it land, and measures what each pass found dirty.
pub async fn all(
    stage: &mut TheoryStage,
) -> Result<(Vec<StageObservation>, CpuShares), TheoryError> {
    let known = stage.machine().await?.query_migration_parameters().await?;
    let limit = |rate: ByteRate| {
        let mut settings = MigrationParameters::default();
        settings.set_max_bandwidth(&known, rate.per_second());
        settings
    };
    let mut settings = limit(ByteRate::mb(1000));
    settings.set_downtime_limit(&known, Duration::from_millis(1));
    stage.machine().await?.set_migration_parameters(&settings).await?;
    let uri = stage.pair.uri();
    let begun = Instant::now();
    stage.machine().await?.migrate(&uri).await?;

    let mut sync = next_sync(stage, None).await?.ok_or(TheoryError::Landed)?;
    let mut seen = Vec::new();
    let mut pace = CpuShares { before: stage.pace, first_pass: f64::NAN, later: f64::NAN };
    let share = |stage: &TheoryStage, from, to: Instant| {
        stage.cpu(from, to).map_or(f64::NAN, |cpu| cpu.0 / (to - from).as_secs_f64())
    };
    // The first pass sends all memory; what the look at its end finds was dirtied in it.
    let Some(first) = next_sync(stage, Some(sync)).await? else { return Ok((seen, pace)) };
    pace.first_pass = share(stage, begun, sync.at.max(first.at - Duration::from_millis(20)));
    sync = first;
    let mut free = (Duration::ZERO, 0.0);
    for (hold, ms) in schedule() {
        stage.throttler.set(hold).await?;
        let length = Duration::from_millis(ms).as_secs_f64();
        let rate = ByteRate((sync.ram.remaining.as_f64() / length).max(1e5));
        stage.machine().await?.set_migration_parameters(&limit(rate)).await?;
        let Some(next) = next_sync(stage, Some(sync)).await? else { break };
        let span = (sync.at, next.at);
        // The moments of the looks are known to half a question's turn.
        let error = next.doubt.as_secs_f64() / (next.at - sync.at).as_secs_f64();
        if error > DOUBTFUL {
            sync = next;
            continue;
        }
        let one = stage.observe(Means::Syncs, hold, span, next.dirtied, error).await?;
        if hold == ThrottleSetting::FREE {
            free = (free.0 + one.wall, free.1 + one.cpu.0);
        }
        seen.push(one);
        sync = next;
    }
    pace.later = free.1 / free.0.as_secs_f64();
    stage.throttler.set(ThrottleSetting::FREE).await?;
    let cancel =
        stage.machine().await?.start_command("migrate_cancel")?.wait(RESPONSE_TIMEOUT).await;
    cancel?;
    Ok((seen, pace))
}

/// A look of QEMU at its bitmap.
#[derive(Clone, Copy)]
struct Sync {
    at: Instant,
    /// Standard error of that.
    doubt: Duration,
    ram: Ram,
    /// Memory it found dirty that was not known to be.
    dirtied: Bytes,
}

/// Waits for the next look after one; `None` where the migration has ended.
async fn next_sync(
    stage: &mut TheoryStage,
    after: Option<Sync>,
) -> Result<Option<Sync>, TheoryError> {
    let begun = Instant::now();
    let mut last: Option<(Instant, Ram)> = after.map(|sync| (sync.at, sync.ram));
    loop {
        let asked = Instant::now();
        let migration = stage.machine().await?.query_migrate().await?;
        let at = asked + asked.elapsed() / 2;
        if migration.status.is_over() || begun.elapsed() > PATIENCE {
            return Ok(None);
        }
        if let Some(ram) = migration.ram {
            if ram.syncs > after.map_or(0, |sync| sync.ram.syncs) {
                let (before, known) = last.unwrap_or((at, ram));
                let sent = ram.sent().saturating_sub(known.sent());
                let dirtied = (ram.remaining + sent).saturating_sub(known.remaining);
                let between = at - before;
                let doubt = between.div_f64(12f64.sqrt());
                return Ok(Some(Sync { at: at - between / 2, doubt, ram, dirtied }));
            }
            last = Some((at, ram));
        }
        sleep(ASK).await;
    }
}
