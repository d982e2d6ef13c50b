//! Values of proto3 JSON for serde. `null` means the default.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::Number;

use crate::pb;

/// String, borrowed if it has no escapes.
#[derive(Default)]
pub(super) struct Text<'b>(pub(super) Cow<'b, str>);

/// Unsigned integer. Numbers above 64 bits saturate: a huge cost must be over the limit, not an error that lets
/// the request pass.
#[derive(Default)]
pub(super) struct Uint(pub(super) Option<u64>);

/// A `bool`.
#[derive(Default)]
pub(super) struct Flag(pub(super) bool);

/// A `RateLimitUnit`, by its name or its number.
#[derive(Default)]
pub(super) struct Unit(pub(super) i64);

/// List of at most `MAX` items. Parsing stops at the first item beyond.
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

/// Object. Derived code would accept an array as well.
pub(super) struct Object<T>(pub(super) T);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'b, 'b> Deserialize<'de> for Text<'b> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<'b>(PhantomData<&'b ()>);

impl<'de: 'b, 'b> Visitor<'de> for TextVisitor<'b> {
    type Value = Text<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'b>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'b>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Text<'b>, E> {
        Ok(Text::default())
    }
}

impl<'de> Deserialize<'de> for Uint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UintVisitor)
    }
}

struct UintVisitor;

impl Visitor<'_> for UintVisitor {
    type Value = Uint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of at least 0")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Uint, E> {
        Ok(Uint(Some(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Uint, E> {
        let number =
            u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        self.visit_u64(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Uint, E> {
        if number < 0.0 || number.fract() != 0.0 {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and saturates")]
        Ok(Uint(Some(number as u64)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Uint, E> {
        let invalid = || E::invalid_value(Unexpected::Str(text), &self);
        // The JSON parser would accept white space around a number.
        let number = Some(text).filter(|text| text.trim() == *text);
        let number: Number = number.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(invalid)?;
        match (number.as_u64(), number.as_f64()) {
            (Some(number), _) => self.visit_u64(number),
            (None, Some(number)) => self.visit_f64(number),
            (None, None) => Err(invalid()),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Uint, E> {
        Ok(Uint::default())
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<bool>::deserialize(deserializer).map(|flag| Self(flag.unwrap_or_default()))
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor)
    }
}

struct UnitVisitor;

impl Visitor<'_> for UnitVisitor {
    type Value = Unit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a unit: SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Unit, E> {
        Ok(Unit(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Unit, E> {
        i64::try_from(number).map(Unit).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Unit, E> {
        if number.fract() != 0.0 || number.abs() > f64::from(i32::MAX) {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole, and of 32 bits")]
        Ok(Unit(number as i64))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Unit, E> {
        let unit = pb::RateLimitUnit::from_str_name(name);
        unit.map(|unit| Unit(unit as i64)).ok_or_else(|| E::invalid_value(Unexpected::Str(name), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Unit, E> {
        Ok(Unit::default())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX} objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format_args!("more than {MAX} items in an array")));
            }
            list.push(item);
        }
        Ok(List(list))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(List::default())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}
