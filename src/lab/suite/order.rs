//! Orders of concurrent requests to try: an expectation must hold in all of them.

use super::action::Action;
use super::file::Test;
use super::world::Backend;

/// Up to so many requests every order is tried.
const MAX_PERMUTED: u32 = 4;
/// Orders of more requests that are tried: rotations, forwards and backwards.
const MAX_ROTATIONS: u32 = 12;

/// Orders to run `test` in again, each of them of the requests of one step, by its index. None where all requests of
/// a step are the same, or where the store is shared: there they are concurrent.
pub(super) fn orders(test: &Test, backend: &Backend) -> Vec<(usize, Vec<u32>)> {
    if !matches!(backend, Backend::Memory) {
        return Vec::new();
    }
    let steps = test.steps.iter().enumerate().filter_map(|(index, step)| match &step.action {
        Action::Ask(ask) if ask.together && !ask.is_constant() => Some((index, ask.times)),
        _ => None,
    });
    steps.flat_map(|(index, times)| orders_of(times).into_iter().map(move |order| (index, order))).collect()
}

/// Orders of the numbers from 1 to `count`, without the one in which they count up.
fn orders_of(count: u32) -> Vec<Vec<u32>> {
    let numbers: Vec<u32> = (1..=count).collect();
    let mut orders = if count <= MAX_PERMUTED { permutations(&numbers) } else { rotations(&numbers) };
    orders.retain(|order| *order != numbers);
    orders
}

fn permutations(numbers: &[u32]) -> Vec<Vec<u32>> {
    if numbers.len() <= 1 {
        return vec![numbers.to_vec()];
    }
    let with_first = |first: &u32| {
        let others: Vec<u32> = numbers.iter().filter(|number| *number != first).copied().collect();
        permutations(&others).into_iter().map(|rest| [&[*first][..], &rest].concat()).collect::<Vec<_>>()
    };
    numbers.iter().flat_map(with_first).collect()
}

fn rotations(numbers: &[u32]) -> Vec<Vec<u32>> {
    let by = (numbers.len() / MAX_ROTATIONS as usize).max(1);
    let starts = (0..numbers.len()).step_by(by).take(MAX_ROTATIONS as usize);
    let rotated = |start: usize| [&numbers[start..], &numbers[..start]].concat();
    let forwards: Vec<_> = starts.map(rotated).collect();
    let backwards = forwards.iter().map(|order| order.iter().rev().copied().collect());
    forwards.iter().cloned().chain(backwards).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn few_requests_are_tried_in_every_order_and_many_in_some() {
        assert_eq!(orders_of(1), Vec::<Vec<u32>>::new());
        assert_eq!(orders_of(2), [[2, 1]]);
        assert_eq!(orders_of(4).into_iter().collect::<BTreeSet<_>>().len(), 23);
        for count in [5, 30, 1_000] {
            let orders = orders_of(count);
            assert!((8..=24).contains(&orders.len()), "{count}: {}", orders.len());
            let all: BTreeSet<u32> = (1..=count).collect();
            assert!(orders.iter().all(|order| order.iter().copied().collect::<BTreeSet<_>>() == all));
        }
    }
}
