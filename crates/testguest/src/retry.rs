//! Holding a measurement to what it must be, on a machine that has other things to do.
//!
//! Noise comes and goes; a wrong account stays. So what was measured has to agree once in three
//! tries, and what does not depend on the machine's speed is asserted at each of them, as ever.

/// Measures until what was measured agrees, three times at most.
///
/// `measure` says what disagreed; `None` where there is nothing to measure with.
///
/// # Panics
/// It never agreed; the message has what disagreed each time.
#[track_caller]
pub fn agrees_once_in_three(mut measure: impl FnMut() -> Option<Result<(), String>>) {
    let mut disagreed = Vec::new();
    while disagreed.len() < 3 {
        match measure() {
            None | Some(Ok(())) => return,
            Some(Err(what)) => {
                println!("disagrees: {what}");
                disagreed.push(what);
            }
        }
    }
    panic!("disagreed three times: {disagreed:#?}");
}

/// A claim on a measurement, and what to say where it does not hold.
///
/// # Errors
/// What to say.
pub fn claim(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_that_passes_is_no_failure() {
        let mut tries = 0;
        agrees_once_in_three(|| {
            tries += 1;
            Some(claim(tries == 3, "busy"))
        });
        assert_eq!(tries, 3);
    }

    #[test]
    #[should_panic = "disagreed three times"]
    fn what_never_agrees_is_a_failure() {
        agrees_once_in_three(|| Some(claim(false, "wrong")));
    }
}
