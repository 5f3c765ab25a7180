//! Changes what is demanded of a migration under way, and cancels it, by asking the landfall that steers.

use std::collections::BTreeMap;

use landfall_core::requirements::settings::{Demand, Demands};
use landfall_qemu::control::client::{self, ControlClient};
use landfall_qemu::control::{ControlAnswer, ControlRequest, SteeredMigration};

use super::guests_page::UnderWay;
use super::migrations::Migration;
use landfall_migration::progress::progress_text;

/// Gives it up: over its control socket, or, before it has one, by a signal to its very process.
///
/// # Errors
/// In words: there is nothing to give up any more, or nobody answers.
pub async fn cancel(migration: &Migration) -> Result<(), String> {
    if !migration.is_under_way() {
        return Err("the migration is over already; there is nothing to cancel".to_owned());
    }
    if let Ok((mut landfall, _)) = steering(migration).await
        && let Ok(ControlAnswer::Cancelling) = landfall.send_request(&ControlRequest::Cancel).await
    {
        return Ok(());
    }
    migration.interrupt()
}

/// All guests that a landfall of this user steers, whoever started it.
pub async fn elsewhere() -> Vec<UnderWay> {
    let all = client::list_migrations().await.unwrap_or_default();
    let under_way = |(_, steered): (ControlClient, SteeredMigration)| UnderWay {
        source: steered.guest.source.to_string(),
        name: None,
        stands: steered.progress.as_ref().map(progress_text),
    };
    all.into_iter().map(under_way).collect()
}

/// What is demanded of it now: as the landfall that steers it says, or its recording, or as it was begun.
pub async fn demands(migration: &Migration, recorded: Option<&Demands>) -> Demands {
    match steering(migration).await {
        Ok((_, steered)) => steered.demands,
        Err(_) => {
            let begun = migration.started.as_ref().map(|started| &started.demands);
            recorded.or(begun).cloned().unwrap_or_default()
        }
    }
}

/// Demands something else from now on: those fields of a form that differ from what is demanded.
///
/// # Errors
/// In words: a field means nothing, or the landfall that steers refuses.
pub async fn change(migration: &Migration, fields: &[(String, String)]) -> Result<(), String> {
    let (mut landfall, steered) = steering(migration).await?;
    let demands = changed(&steered.demands, fields)?;
    if demands.is_empty() {
        return Ok(());
    }
    match landfall
        .send_request(&ControlRequest::Set { demands })
        .await
        .map_err(|error| error.to_string())?
    {
        ControlAnswer::Refused { reason } => Err(format!("{reason}. Nothing was changed")),
        _ => Ok(()),
    }
}

/// The landfall that steers it, and nobody else's.
async fn steering(migration: &Migration) -> Result<(ControlClient, SteeredMigration), String> {
    let started = migration.started.as_ref().filter(|_| migration.is_under_way());
    let started = started.ok_or("the migration is over, or another landfall serve started it")?;
    client::find_migration(&started.source).await.map_err(|error| error.to_string())
}

/// What differs, by name. A field that was left empty takes its limit back, where there is one to take.
fn changed(now: &Demands, fields: &[(String, String)]) -> Result<BTreeMap<String, String>, String> {
    let mut wanted = now.clone();
    for (name, text) in fields.iter().filter(|(name, _)| Demand::NAMES.contains(&name.as_str())) {
        let text = if text.trim().is_empty() { "none" } else { text };
        wanted.set(name, text).map_err(|error| error.to_string())?;
    }
    let named = |demand: Demand| (demand.name().to_owned(), demand.text());
    Ok(wanted.beyond(now).map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn only_what_differs_is_asked_for() {
        let mut now = Demands::default();
        now.set("max-time", "90s").unwrap();
        let form =
            fields(&[("max-stall", "300ms"), ("max-time", ""), ("min-cpu", "20%"), ("to", "x")]);
        let changed = changed(&now, &form).unwrap();
        let expected = [("max-time", "none"), ("min-cpu", "20%")];
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), fields(&expected));
    }

    #[test]
    fn what_means_nothing_is_refused_with_the_remedy() {
        for (name, text) in [("max-stall", "300"), ("max-stall", ""), ("aggression", "2")] {
            let error = changed(&Demands::default(), &fields(&[(name, text)])).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
