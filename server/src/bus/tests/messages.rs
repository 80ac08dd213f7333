//! Hints and the messages that carry them.

use proptest::prelude::*;

use super::commits::{any_commit, assert_same, batch};
use crate::bus::Hint;
use crate::bus::hint::{MAX_MESSAGE, Seal, Sender, Word, weight};

const ME: Sender = [1; 16];
const OTHER: Sender = [2; 16];

fn heard(seal: &Seal, message: &[u8]) -> Hint {
    match seal.open(&ME, message) {
        Ok(Word::Hint(hint)) => hint,
        other => panic!("no hint: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_commit_comes_back_as_it_was(commit in any_commit(), serial in any::<u64>()) {
        let seal = Seal::new("store");
        let message = seal.close(&OTHER, serial, Some(&Hint::of(&commit, true)));
        let hint = heard(&seal, &message);
        prop_assert_eq!(&hint.namespace, &commit.namespace);
        prop_assert_eq!(&hint.head, &commit.head);
        prop_assert_eq!(hint.events, commit.events.len() as u64);
        prop_assert_eq!(hint.next_due, commit.next_due);
        assert_same(&hint.commit.expect("the whole"), &commit);
    }

    #[test]
    fn without_its_rows_the_rest_is_there(commit in any_commit()) {
        let seal = Seal::new("store");
        let whole = seal.close(&OTHER, 1, Some(&Hint::of(&commit, true)));
        let message = seal.close(&OTHER, 1, Some(&Hint::of(&commit, false)));
        prop_assert!(message.len() < whole.len());
        let hint = heard(&seal, &message);
        prop_assert!(hint.commit.is_none());
        prop_assert_eq!(&hint.head, &commit.head);
        prop_assert_eq!(hint.next_due, commit.next_due);
    }

    #[test]
    fn a_message_with_a_byte_changed_or_a_part_missing_is_not_opened(commit in any_commit(), place in any::<prop::sample::Index>(), change in 1u8..) {
        let seal = Seal::new("store");
        let message = seal.close(&OTHER, 1, Some(&Hint::of(&commit, true)));
        let place = place.index(message.len());
        prop_assert!(seal.open(&ME, &message[..place]).is_err());
        let mut changed = message;
        changed[place] ^= change;
        prop_assert!(seal.open(&ME, &changed).is_err());
    }

    #[test]
    fn a_sealed_message_whose_body_is_anything_ends_well(commit in any_commit(), place in any::<prop::sample::Index>(), junk in prop::collection::vec(any::<u8>(), 0..100)) {
        // As another version could have written it, under the same seal.
        let seal = Seal::new("store");
        let mut message = seal.close(&OTHER, 1, Some(&Hint::of(&commit, true)));
        message.truncate(message.len() - 32);
        let place = place.index(message.len() - 2) + 2;
        message.splice(place..(place + junk.len()).min(message.len()), junk);
        // A hint, another's word, one's own or nothing, but an end.
        drop(seal.open(&ME, &seal.seal(message)));
    }

    #[test]
    fn any_bytes_are_malformed(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Seal::new("store").open(&ME, &bytes).is_err());
    }
}

#[test]
fn own_words_are_known() {
    let seal = Seal::new("store");
    let hint = Hint::of(&batch(1, 10), true);
    assert!(matches!(
        seal.open(&ME, &seal.close(&ME, 7, Some(&hint))),
        Ok(Word::Own(7))
    ));
    assert!(matches!(seal.open(&ME, &seal.close(&ME, 8, None)), Ok(Word::Own(8))));
    assert!(matches!(seal.open(&ME, &seal.close(&OTHER, 8, None)), Ok(Word::Beat)));
}

#[test]
fn who_does_not_know_the_store_cannot_speak_for_it() {
    let (seal, stranger) = (Seal::new("store"), Seal::new("another"));
    assert_ne!(seal.channel(), stranger.channel());
    assert!(
        !seal.channel().contains("store"),
        "the id would be shown to all who use that Redis"
    );
    assert!(seal.open(&ME, &stranger.close(&OTHER, 1, None)).is_err());
}

#[test]
fn tables_of_another_shape_leave_the_header() {
    let seal = Seal::new("store");
    let commit = batch(3, 10);
    let header = seal.close(&OTHER, 1, Some(&Hint::of(&commit, false))).len() - 32;
    let mut message = seal.close(&OTHER, 1, Some(&Hint::of(&commit, true)));
    message.truncate(message.len() - 32);
    message[header] ^= 1;
    let hint = heard(&seal, &seal.seal(message));
    assert!(hint.commit.is_none());
    assert_eq!(hint.head, commit.head);
}

#[test]
fn what_is_too_large_goes_without_its_rows() {
    let seal = Seal::new("store");
    for (size, is_whole) in [(MAX_MESSAGE - 1_000, true), (MAX_MESSAGE, false)] {
        let commit = batch(1, size);
        assert_eq!(weight(&commit) <= MAX_MESSAGE, is_whole, "{}", weight(&commit));
        let message = seal.close(&OTHER, 1, Some(&Hint::of(&commit, true)));
        assert!(message.len() <= MAX_MESSAGE);
        assert_eq!(heard(&seal, &message).commit.is_some(), is_whole);
    }
}
