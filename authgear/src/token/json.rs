//! Strict JSON: a text that two parsers could read differently is rejected.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// Maximum nesting depth of arrays and objects.
pub(super) const MAX_DEPTH: usize = 32;

/// Maximum number of members in one object.
pub(super) const MAX_MEMBERS: usize = 256;

/// A JSON value (RFC 8259). Strings without escapes are borrowed from the text.
#[derive(Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// A number without fraction and exponent that fits in 64 bits.
    Integer(i128),
    /// Any other number; always finite.
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// Members in their original order, with unique names.
#[derive(Debug, PartialEq)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Json<'a> {
    /// Parses a text that consists of exactly one value.
    ///
    /// Returns `None` for a text that is not JSON in UTF-8 or is ambiguous: a byte order mark, a
    /// duplicate name in an object (RFC 8259 section 4), half a surrogate pair, a number out of the
    /// range of doubles. Also beyond [`MAX_DEPTH`] and [`MAX_MEMBERS`].
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let json = ValueSeed { depth: 0 }.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(json)
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }
}

impl<'a> Object<'a> {
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

/// Returns the JSON text of the only member whose name is `wanted`, or `None` if there are several.
/// `object` must be a text that [`Json::parse`] accepts.
pub(super) fn member(object: &str, wanted: impl Fn(&str) -> bool) -> Option<&str> {
    struct Find<F>(F);

    impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Find<F> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut found, mut several) = (None, false);
            while let Some(MemberName(name)) = map.next_key()? {
                if self.0(&name) {
                    several |= found.replace(map.next_value()?).is_some();
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found.filter(|_| !several))
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(object);
    let found = (&mut deserializer).deserialize_map(Find(wanted)).ok()?;
    found.map(RawValue::get)
}

#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

/// Parses a value at this nesting depth.
#[derive(Clone, Copy)]
struct ValueSeed {
    depth: usize,
}

impl ValueSeed {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let item = self.deeper()?;
        let mut items = Vec::new();
        while let Some(value) = seq.next_element_seed(item)? {
            items.push(value);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let member = self.deeper()?;
        let mut members: Vec<(Cow<'de, str>, _)> = Vec::new();
        while let Some(MemberName(name)) = map.next_key()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom("too many members"));
            }
            members.push((name, map.next_value_seed(member)?));
        }
        if has_duplicate(members.iter().map(|(name, _)| &**name)) {
            return Err(A::Error::custom("duplicate name"));
        }
        Ok(Json::Object(Object(members)))
    }
}

/// Returns whether a name occurs twice. Sorting keeps the cost of many names low: anybody can send
/// a token.
fn has_duplicate<'n>(names: impl Iterator<Item = &'n str>) -> bool {
    let mut names: SmallVec<[&str; 16]> = names.collect();
    names.sort_unstable();
    names.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<Json<'_>> {
        Json::parse(text.as_bytes())
    }

    #[test]
    fn each_kind_of_value_is_parsed() {
        let text = |text| Json::Text(Cow::Borrowed(text));
        for (json, value) in [
            ("null", Json::Null),
            (" true\r\n", Json::Bool(true)),
            ("-7", Json::Integer(-7)),
            ("18446744073709551615", Json::Integer(u64::MAX.into())),
            ("18446744073709551616", Json::Float(18446744073709551616.0)),
            ("1.0", Json::Float(1.0)),
            ("1e2", Json::Float(100.0)),
            (r#""a""#, text("a")),
            (r#""\u0061\n""#, text("a\n")),
            (r#""\ud83d\ude00""#, text("\u{1f600}")),
            ("[]", Json::List(vec![])),
            (r#"[1,["a"]]"#, Json::List(vec![Json::Integer(1), Json::List(vec![text("a")])])),
        ] {
            assert_eq!(parse(json), Some(value), "{json}");
        }

        let json = parse(r#"{"a":1,"\u0062":{"a":null}}"#).unwrap();
        let object = json.as_object().unwrap();
        assert_eq!(object.get("a"), Some(&Json::Integer(1)));
        assert_eq!(object.get("b").unwrap().as_object().unwrap().get("a"), Some(&Json::Null));
        assert_eq!(object.get("c"), None);
    }

    #[test]
    fn ambiguous_and_malformed_texts_are_rejected() {
        for json in [
            "",
            " ",
            "nothing",
            "\u{feff}{}",
            "{} {}",
            "{}x",
            "{}\0",
            "{'a':1}",
            r#"{"a":1,}"#,
            "[1,]",
            "01",
            "+1",
            "1e999",
            "NaN",
            "\"a\nb\"",
            r#""\ud800""#,
            r#""\x""#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"b":{"a":1,"a":2}}"#,
            r#"[[{"a":1,"b":2,"a":3}]]"#,
        ] {
            assert_eq!(parse(json), None, "{json:?}");
        }
        assert_eq!(Json::parse(b"\"\xff\""), None);
        assert_eq!(Json::parse(b"\"\xed\xa0\x80\""), None);
    }

    #[test]
    fn depth_and_members_are_capped() {
        for (open, value, close) in [("[", "", "]"), (r#"{"a":"#, "1", "}")] {
            let nested = |depth| format!("{}{value}{}", open.repeat(depth), close.repeat(depth));
            assert!(parse(&nested(MAX_DEPTH)).is_some());
            assert_eq!(parse(&nested(MAX_DEPTH + 1)), None);
            assert_eq!(parse(&nested(100_000)), None);
            assert_eq!(parse(&open.repeat(100_000)), None);
        }
        let object = |members: usize| {
            let members: Vec<_> = (0..members).map(|n| format!("\"{n}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(parse(&object(MAX_MEMBERS)).is_some());
        assert_eq!(parse(&object(MAX_MEMBERS + 1)), None);
    }

    #[test]
    fn members_are_returned_as_written() {
        let object = r#" {"a" : 1.50 , "\u0062":{"x": [1 ,2]},"c":"\n"} "#;
        assert_eq!(member(object, |own| own == "a"), Some("1.50"));
        assert_eq!(member(object, |own| own == "b"), Some(r#"{"x": [1 ,2]}"#));
        assert_eq!(member(object, |own| own == "c"), Some(r#""\n""#));
        assert_eq!(member(object, |own| own == "a" || own == "b"), None);
        for name in ["", "x", "d", "A", "\\u0062"] {
            assert_eq!(member(object, |own| own == name), None, "{name}");
        }
        for text in ["", "[]", "1", "{", "null"] {
            assert_eq!(member(text, |own| own == "a"), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            Json::parse(&bytes);
        }

        #[test]
        fn accepted_texts_are_accepted_by_serde_json(text in r#"[\[\]{}:,"ab0-9.eE\\u -]{0,40}"#) {
            if let Some(json) = parse(&text) {
                let other: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(json.as_object().is_some(), other.is_object());
                prop_assert_eq!(json.as_text(), other.as_str());
                prop_assert_eq!(json.as_list().map(<[_]>::len), other.as_array().map(Vec::len));
            }
        }
    }
}
