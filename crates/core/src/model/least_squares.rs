//! Weighted least squares in amounts that cannot be negative.
//!
//! By the active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23),
//! on the normal equations: amounts enter the passive set one by one, the one with the steepest gradient
//! first; one that would become negative leaves it again. Few amounts are not zero in the end, so few equations
//! are ever solved at once, and the optimum is reached in as many steps.

/// How many amounts there may be.
pub(super) const MOST_UNKNOWN: usize = 24;

/// One number for each amount.
type Row = [f64; MOST_UNKNOWN];

/// An equation that lacks no more than this part of its right side is met.
const TOLERANCE: f64 = 1e-9;

/// An amount whose column depends on the others' within this part adds nothing.
const DEPENDENT: f64 = 1e-10;

/// The normal equations.
pub(super) struct Equations {
    count: usize,
    gram: [Row; MOST_UNKNOWN],
    right: Row,
}

impl Equations {
    /// No equations yet, for this many amounts.
    pub(super) fn of(count: usize) -> Self {
        let zeros = [0.0; MOST_UNKNOWN];
        Equations { count: count.min(MOST_UNKNOWN), gram: [zeros; MOST_UNKNOWN], right: zeros }
    }

    /// So many times each amount is to come to `wanted`, as nearly as it can.
    pub(super) fn add(&mut self, times: &Row, wanted: f64) {
        let times = &times[..self.count];
        for (i, one) in times.iter().enumerate() {
            self.right[i] += one * wanted;
            for (entry, other) in self.gram[i].iter_mut().zip(times) {
                *entry += one * other;
            }
        }
    }

    /// Solves for the amounts, starting from `amounts`. The result does not depend on the start; a near one
    /// saves steps.
    pub(super) fn solve(&self, begin: &Row) -> Row {
        let mut amounts = *begin;
        let (mut free, mut barred) = (Free::default(), [false; MOST_UNKNOWN]);
        for amount in (0..self.count).filter(|amount| begin[*amount] > 0.0) {
            if !free.let_off(amount, &self.gram) {
                amounts[amount] = 0.0;
            }
        }
        self.go_to_solution(&mut free, &mut amounts);
        // Each amount enters about once; a cycle comes from rounding alone.
        for _ in 0..3 * self.count {
            let lacking = self.lacking(&free, &amounts);
            let held = |amount: &usize| !barred[*amount] && !free.amounts().contains(amount);
            let held = (0..self.count).filter(held);
            let gain = |amount: usize| {
                lacking[amount].max(0.0).powi(2) / self.gram[amount][amount].max(f64::MIN_POSITIVE)
            };
            let Some(most) = held.max_by(|a, b| gain(*a).total_cmp(&gain(*b))) else { break };
            if lacking[most] <= TOLERANCE * self.right[most].abs() {
                break;
            }
            if !free.let_off(most, &self.gram) {
                barred[most] = true;
                continue;
            }
            self.go_to_solution(&mut free, &mut amounts);
        }
        amounts
    }

    /// Goes to the solution for the free amounts, and puts those back that would be negative there.
    fn go_to_solution(&self, free: &mut Free, amounts: &mut Row) {
        while let Some(back) = self.step(free, amounts) {
            free.put_back(back, &self.gram);
            let held = |amount: &usize| !free.amounts().contains(amount);
            (0..self.count).filter(held).for_each(|amount| amounts[amount] = 0.0);
        }
    }

    /// What each equation still lacks.
    fn lacking(&self, free: &Free, amounts: &Row) -> Row {
        let mut lacking = self.right;
        for amount in free.amounts() {
            for (lacking, entry) in lacking.iter_mut().zip(&self.gram[*amount]) {
                *lacking -= entry * amounts[*amount];
            }
        }
        lacking
    }

    /// Goes to the solution for the free amounts, or as far towards it as none becomes negative, and
    /// tells the one that is zero then.
    fn step(&self, free: &Free, amounts: &mut Row) -> Option<usize> {
        let solution = free.solve(&self.right);
        let negative = free.amounts().iter().zip(&solution).filter(|(_, wanted)| **wanted <= 0.0);
        let far = |(amount, wanted): (&usize, &f64)| {
            let way = amounts[*amount] - wanted;
            (*amount, if way > 0.0 { amounts[*amount] / way } else { 0.0 })
        };
        let first = negative.map(far).min_by(|a, b| a.1.total_cmp(&b.1));
        let far = first.map_or(1.0, |(_, far)| far);
        for (amount, wanted) in free.amounts().iter().zip(&solution) {
            amounts[*amount] += far * (wanted - amounts[*amount]);
        }
        first.map(|(amount, _)| amount)
    }
}

/// The amounts that are not held at zero, and the Cholesky factor of their equations.
#[derive(Default)]
struct Free {
    amounts: [usize; MOST_UNKNOWN],
    count: usize,
    factor: [Row; MOST_UNKNOWN],
}

impl Free {
    fn amounts(&self) -> &[usize] {
        &self.amounts[..self.count]
    }

    /// `false` if its column is dependent.
    fn let_off(&mut self, amount: usize, gram: &[Row; MOST_UNKNOWN]) -> bool {
        let (last, mut square) = (self.count, gram[amount][amount]);
        let mut row = [0.0; MOST_UNKNOWN];
        for (place, other) in self.amounts().iter().enumerate() {
            let known = dot(&self.factor[place], &row, place);
            row[place] = (gram[amount][*other] - known) / self.factor[place][place];
            square -= row[place] * row[place];
        }
        if square <= DEPENDENT * gram[amount][amount] {
            return false;
        }
        row[last] = square.sqrt();
        self.factor[last] = row;
        self.amounts[last] = amount;
        self.count += 1;
        true
    }

    fn put_back(&mut self, amount: usize, gram: &[Row; MOST_UNKNOWN]) {
        let Some(place) = self.amounts().iter().position(|free| *free == amount) else { return };
        let (amounts, count) = (self.amounts, self.count);
        self.count = place;
        for later in &amounts[place + 1..count] {
            self.let_off(*later, gram);
        }
    }

    /// The amounts that meet their equations, in their order.
    fn solve(&self, right: &Row) -> Row {
        let mut found = [0.0; MOST_UNKNOWN];
        for (place, amount) in self.amounts().iter().enumerate() {
            let known = dot(&self.factor[place], &found, place);
            found[place] = (right[*amount] - known) / self.factor[place][place];
        }
        for place in (0..self.count).rev() {
            let later = place + 1..self.count;
            let known: f64 = later.map(|later| self.factor[later][place] * found[later]).sum();
            found[place] = (found[place] - known) / self.factor[place][place];
        }
        found
    }
}

fn dot(one: &Row, other: &Row, count: usize) -> f64 {
    one[..count].iter().zip(other).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// At the optimum nothing can be gained: what is free lacks nothing, and what is held at zero
        /// would have to be less. So it is wherever it begins.
        #[test]
        fn nothing_is_left_to_be_gained(
            rows in proptest::collection::vec((proptest::array::uniform8(-1.0f64..1.0), -10.0f64..10.0), 2..24),
            near in proptest::array::uniform8(prop_oneof![Just(0.0), 0.0f64..10.0]),
        ) {
            let mut equations = Equations::of(8);
            for (times, wanted) in &rows {
                let mut row = [0.0; MOST_UNKNOWN];
                row[..8].copy_from_slice(times);
                equations.add(&row, *wanted);
            }
            let mut begin = [0.0; MOST_UNKNOWN];
            begin[..8].copy_from_slice(&near);
            let amounts = equations.solve(&begin);
            for i in 0..8 {
                let met: f64 = (0..8).map(|j| equations.gram[i][j] * amounts[j]).sum();
                let lacking = equations.right[i] - met;
                prop_assert!(amounts[i] >= 0.0, "{amounts:?}");
                prop_assert!(lacking < 1e-6, "{i} lacks {lacking}");
                prop_assert!(amounts[i] == 0.0 || lacking > -1e-6, "{i} has too much: {lacking}");
            }
            prop_assert!(amounts[8..].iter().all(|amount| *amount == 0.0));
        }
    }
}
