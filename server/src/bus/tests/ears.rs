//! Listeners that do not keep up.

use super::commits::batch;
use crate::bus::ear::Ears;
use crate::bus::{Heard, Hint};

fn numbers(listener: &mut tokio::sync::mpsc::Receiver<Heard>) -> Vec<Option<i64>> {
    let mut numbers = Vec::new();
    while let Ok(heard) = listener.try_recv() {
        numbers.push(match heard {
            Heard::Hint(hint) => Some(hint.head.batch),
            Heard::Interrupted => None,
        });
    }
    numbers
}

#[test]
fn what_a_slow_listener_loses_is_marked_where_it_is_lost() {
    let ears = Ears::default();
    let (mut slow, mut quick) = (ears.listen(), ears.listen());
    let mut heard = Vec::new();
    for number in 1..=2_000 {
        ears.hint(&Hint::of(&batch(number, 0), true));
        heard.extend(numbers(&mut quick));
    }
    assert_eq!(heard, (1..=2_000).map(Some).collect::<Vec<_>>());
    let got = numbers(&mut slow);
    let kept = got.len() as i64 - 1;
    assert!(kept > 100 && kept < 2_000, "{kept}");
    let wanted: Vec<_> = (1..=kept).map(Some).chain([None]).collect();
    assert_eq!(got, wanted, "first what there was place for, then the mark, once");
    ears.hint(&Hint::of(&batch(2_001, 0), true));
    assert_eq!(numbers(&mut slow), [Some(2_001)], "and then it goes on");
}

#[test]
fn interruptions_in_a_row_are_one() {
    let ears = Ears::default();
    let mut listener = ears.listen();
    for _ in 0..5_000 {
        ears.interrupt();
    }
    assert_eq!(numbers(&mut listener), [None]);
    ears.interrupt();
    assert_eq!(numbers(&mut listener), [None], "one after it was taken out is another");
    ears.hint(&Hint::of(&batch(1, 0), true));
    ears.interrupt();
    ears.hint(&Hint::of(&batch(2, 0), true));
    assert_eq!(numbers(&mut listener), [Some(1), None, Some(2)]);
}

#[test]
fn who_is_gone_is_forgotten() {
    let ears = Ears::default();
    drop(ears.listen());
    let mut listener = ears.listen();
    ears.interrupt();
    assert_eq!(ears.count(), 1);
    assert_eq!(numbers(&mut listener), [None]);
}
