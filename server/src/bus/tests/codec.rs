//! Values, there and back.

use proptest::prelude::*;

use super::commits::any_value;
use crate::bus::codec::{Malformed, Reader, Writer};
use crate::store::row::{Kind, Value};

fn any_values() -> impl Strategy<Value = Vec<Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        any_value(Kind::Int),
        any_value(Kind::Text),
        any_value(Kind::Blob),
        prop::sample::select(vec![i64::MIN, i64::MAX, -32, -31, 30, 31, 32]).prop_map(Value::Int),
        (60usize..66).prop_map(|length| Value::Text("x".repeat(length))),
    ];
    prop::collection::vec(value, 0..20)
}

proptest! {
    #[test]
    fn values_come_back_as_they_were(values in any_values(), number in any::<u64>(), signed in any::<i64>(), text in ".{0,90}") {
        let mut writer = Writer::default();
        values.iter().for_each(|value| writer.value(value));
        writer.number(number);
        writer.signed(signed);
        writer.text(&text);
        let mut reader = Reader::new(&writer.bytes);
        for value in &values {
            prop_assert_eq!(&reader.value().unwrap(), value);
        }
        prop_assert_eq!(reader.number(), Ok(number));
        prop_assert_eq!(reader.signed(), Ok(signed));
        prop_assert_eq!(reader.text(), Ok(&*text));
        prop_assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn any_bytes_are_values_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut reader = Reader::new(&bytes);
        let mut read = 0;
        while let Ok(value) = reader.value() {
            read += match value {
                Value::Text(text) => text.len() + 1,
                Value::Blob(bytes) => bytes.len() + 1,
                Value::Null | Value::Int(_) => 1,
            };
        }
        prop_assert!(read <= bytes.len());
    }
}

#[test]
fn what_is_small_takes_a_byte() {
    let small = [
        Value::Null,
        Value::Int(0),
        Value::Int(-31),
        Value::Int(30),
        Value::Text(String::new()),
    ];
    for value in small {
        let mut writer = Writer::default();
        writer.value(&value);
        assert_eq!(writer.bytes.len(), 1, "{value:?}");
    }
}

#[test]
fn lengths_beyond_the_input_are_malformed() {
    for kind in [2u8, 3] {
        let mut bytes = vec![kind | 63 << 2];
        bytes.extend([0xff; 9]);
        bytes.push(1);
        assert!(matches!(Reader::new(&bytes).value(), Err(Malformed)));
    }
    // One bit too many for 64.
    let too_long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
    assert_eq!(Reader::new(&too_long).number(), Err(Malformed));
}
