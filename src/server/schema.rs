//! Schemas of the API's types, for its OpenAPI document.
//!
//! [`replies!`] and [`requests!`] define a type together with its schema, so that neither can have a field that the
//! other does not. A derive macro would do the same, and add to the time of the first build.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// Schemas by the name of their type.
pub(in crate::server) type Schemas = Map<String, Value>;

/// A type with a schema.
pub(in crate::server) trait Described {
    /// True if a field of a request with this type may be left out.
    const IS_OPTIONAL: bool = false;

    /// Schema; a reference for types with names, which are added to `schemas`.
    fn schema(schemas: &mut Schemas) -> Value;
}

/// A field of a type: name, schema, and whether it is always there.
pub(in crate::server) struct FieldSchema {
    pub(in crate::server) name: &'static str,
    pub(in crate::server) schema: Value,
    pub(in crate::server) is_required: bool,
}

/// A field of the type `T`. `extra` are objects of keywords that its schema has in addition.
pub(in crate::server) fn field<T: Described>(
    name: &'static str,
    doc: &str,
    extra: &Value,
    is_required: bool,
    schemas: &mut Schemas,
) -> FieldSchema {
    let mut schema = T::schema(schemas);
    // Keywords beside a `$ref` apply to the same value.
    for extra in extra.as_array().into_iter().flatten().filter_map(Value::as_object) {
        schema.as_object_mut().into_iter().for_each(|schema| schema.extend(extra.clone()));
    }
    schema["description"] = doc.trim().into();
    FieldSchema { name, schema, is_required }
}

/// Adds the schema of the type `name`, unless it is there, and returns a reference to it.
pub(in crate::server) fn object(
    name: &'static str,
    doc: &str,
    schemas: &mut Schemas,
    fields: impl FnOnce(&mut Schemas) -> Vec<FieldSchema>,
) -> Value {
    if !schemas.contains_key(name) {
        // Before its fields, which may lead back to it.
        schemas.insert(name.to_owned(), Value::Null);
        let fields = fields(schemas);
        let required: Vec<_> =
            fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
        let properties: Map<_, _> =
            fields.into_iter().map(|field| (field.name.to_owned(), field.schema)).collect();
        let mut schema = json!({
            "type": "object",
            "description": doc.trim(),
            "properties": properties,
            "additionalProperties": false,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schemas.insert(name.to_owned(), schema);
    }
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

macro_rules! described {
    ($($type:ty => $schema:tt)+) => {
        $(impl Described for $type {
            fn schema(_: &mut Schemas) -> Value {
                json!($schema)
            }
        })+
    };
}

described! {
    String => { "type": "string" }
    &'static str => { "type": "string" }
    bool => { "type": "boolean" }
    u8 => { "type": "integer", "minimum": 0, "maximum": 255 }
    u32 => { "type": "integer", "minimum": 0, "maximum": u32::MAX }
    u64 => { "type": "integer", "minimum": 0 }
    usize => { "type": "integer", "minimum": 0 }
    f64 => { "type": "number" }
    Map<String, Value> => { "type": "object", "additionalProperties": true }
}

impl<T: Described> Described for Vec<T> {
    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::schema(schemas) })
    }
}

impl<T: Described> Described for HashMap<String, T> {
    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "type": "object", "additionalProperties": T::schema(schemas) })
    }
}

impl<T: Described> Described for Option<T> {
    const IS_OPTIONAL: bool = true;

    fn schema(schemas: &mut Schemas) -> Value {
        let mut schema = T::schema(schemas);
        match schema.get_mut("type") {
            Some(kind) => *kind = json!([kind.take(), "null"]),
            None => schema = json!({ "anyOf": [schema, { "type": "null" }] }),
        }
        schema
    }
}

/// Defines types that answers consist of. A field may have further keywords of JSON Schema: `name: String = {"minLength": 1}`.
macro_rules! replies {
    ($($(#[doc = $doc:literal])+ struct $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $(= $extra:tt)?,)*
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, serde::Serialize)]
        pub(in crate::server) struct $name {
            $($(#[doc = $field_doc])+ pub(in crate::server) $field: $type,)*
        }

        impl $crate::server::schema::Described for $name {
            fn schema(schemas: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
                $crate::server::schema::object(stringify!($name), concat!($($doc),+), schemas, |_schemas| vec![
                    $($crate::server::schema::field::<$type>(
                        stringify!($field), concat!($($field_doc),+), &serde_json::json!([$($extra)?]), true,
                        _schemas,
                    ),)*
                ])
            }
        }
    )+};
}

/// Defines types that requests consist of: bodies, and the parameters in a path or query. A body may lack those of its
/// fields that are an `Option`.
macro_rules! requests {
    ($($(#[doc = $doc:literal])+ struct $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty $(= $extra:tt)?,)*
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(in crate::server) struct $name {
            $($(#[doc = $field_doc])+ pub(in crate::server) $field: $type,)*
        }

        impl $crate::server::schema::Described for $name {
            fn schema(schemas: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
                $crate::server::schema::object(stringify!($name), concat!($($doc),+), schemas, |_schemas| vec![
                    $($crate::server::schema::field::<$type>(
                        stringify!($field), concat!($($field_doc),+), &serde_json::json!([$($extra)?]),
                        !<$type as $crate::server::schema::Described>::IS_OPTIONAL, _schemas,
                    ),)*
                ])
            }
        }
    )+};
}

pub(in crate::server) use {replies, requests};

#[cfg(test)]
mod tests {
    use super::*;

    replies! {
        /// A basket.
        struct Basket {
            /// Its owner.
            owner: Option<String>,
            /// Its fruits.
            fruits: Vec<Fruit>,
        }
        /// A fruit.
        struct Fruit {
            /// Grams.
            weight: u32 = { "maximum": 1000 },
        }
    }

    requests! {
        /// An order.
        struct Order {
            /// Name of the fruit.
            fruit: String,
            /// Number of them.
            count: Option<u64>,
        }
    }

    #[test]
    fn a_type_is_described_as_it_is_written_and_read() {
        let mut schemas = Schemas::new();
        assert_eq!(Basket::schema(&mut schemas), json!({ "$ref": "#/components/schemas/Basket" }));
        let basket = Basket { owner: None, fruits: vec![Fruit { weight: 3 }] };
        let names = |value: &Value| {
            value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let written = serde_json::to_value(&basket).unwrap();
        assert_eq!(names(&schemas["Basket"]["properties"]), names(&written));
        assert_eq!(schemas["Basket"]["required"], json!(["owner", "fruits"]));
        assert_eq!(schemas["Basket"]["properties"]["owner"]["type"], json!(["string", "null"]));
        let weight = &schemas["Fruit"]["properties"]["weight"];
        assert_eq!((&weight["maximum"], &weight["description"]), (&json!(1000), &json!("Grams.")));
        Order::schema(&mut schemas);
        assert_eq!(schemas["Order"]["required"], json!(["fruit"]));
        let read = |value: Value| serde_json::from_value::<Order>(value);
        let order = read(json!({ "fruit": "apple" })).unwrap();
        assert_eq!((order.fruit.as_str(), order.count), ("apple", None));
        read(json!({ "fruit": "apple", "colour": "red" })).unwrap_err();
    }
}
