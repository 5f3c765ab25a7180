//! Quantiles of measured values.

/// Returns the value below which a part of the sorted values lies (nearest rank, rounded up); `None` of none.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).ceil() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_the_least_and_the_most() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        let of = |part| quantile(&sorted, part);
        assert_eq!([of(0.0), of(0.5), of(1.0)], [Some(1.0), Some(3.0), Some(4.0)]);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
