//! Tables of the fields of YAML files. The reader of a file and the JSON Schema for editors use the same table, so
//! that both know the same fields.

use serde_json::{Map, Value, json};

/// A map with known fields.
#[derive(Debug)]
pub struct Object {
    /// Name of the definition in the schema.
    pub name: &'static str,
    /// Meaning, for editors.
    pub doc: &'static str,
    /// Known fields. Names that begin with `x-` are always allowed, for YAML anchors.
    pub fields: &'static [Field],
    /// Required fields.
    pub required: &'static [&'static str],
}

/// A field of an [`Object`].
#[derive(Debug)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// Values that the field takes.
    pub kind: Kind,
    /// Meaning, for editors.
    pub doc: &'static str,
}

/// Values that a field takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Nothing.
    Null,
    /// Text. Numbers and booleans are read as text, as they are written.
    Text,
    /// Text that matches this regular expression.
    Form(&'static str),
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Uint {
        /// Least.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// A whole number that may be negative.
    Int,
    /// A number between two bounds.
    Number {
        /// Least.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// One of a few names.
    Choice(&'static [&'static str]),
    /// A list.
    List(&'static Self),
    /// A map with any keys.
    Map(&'static Self),
    /// A map with known fields.
    Object(&'static Object),
    /// A map with exactly this field, such as `ip_prefix: {v4: 24}`.
    Single(&'static Field),
    /// A value of one of these kinds.
    Either(&'static [Self]),
    /// Any value.
    Any,
}

impl Object {
    /// Names of the known fields.
    pub fn names(&self) -> Vec<&'static str> {
        self.fields.iter().map(|field| field.name).collect()
    }

    /// The known field of this name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// JSON Schema, draft 2020-12, of documents whose top level is `root`.
pub fn json_schema(root: &'static Object, title: &str) -> Value {
    let mut definitions = Map::new();
    define(root, &mut definitions);
    let reference = reference(root);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$ref": reference["$ref"],
        "$defs": definitions,
    })
}

fn reference(object: &Object) -> Value {
    json!({ "$ref": format!("#/$defs/{}", object.name) })
}

fn define(object: &'static Object, definitions: &mut Map<String, Value>) {
    if definitions.contains_key(object.name) {
        return;
    }
    // Inserted before its fields, which may refer to it.
    definitions.insert(object.name.to_owned(), Value::Null);
    let mut properties = Map::new();
    for field in object.fields {
        properties.insert(field.name.to_owned(), property(field, definitions));
    }
    let mut schema = json!({
        "type": "object",
        "description": object.doc,
        "properties": properties,
        "patternProperties": { "^x-": {} },
        "additionalProperties": false,
    });
    if !object.required.is_empty() {
        schema["required"] = json!(object.required);
    }
    definitions.insert(object.name.to_owned(), schema);
}

fn property(field: &'static Field, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = schema(&field.kind, definitions);
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), field.doc.into());
    }
    schema
}

fn schema(kind: &'static Kind, definitions: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Null => json!({ "type": "null" }),
        Kind::Text => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Form(form) => json!({ "type": "string", "pattern": form }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Uint { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Int => json!({ "type": "integer" }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::List(of) => json!({ "type": "array", "items": schema(of, definitions) }),
        Kind::Map(of) => json!({ "type": "object", "additionalProperties": schema(of, definitions) }),
        Kind::Object(object) => {
            define(object, definitions);
            reference(object)
        }
        Kind::Single(field) => json!({
            "type": "object",
            "properties": { field.name: property(field, definitions) },
            "required": [field.name],
            "additionalProperties": false,
        }),
        Kind::Either(kinds) => {
            let kinds: Vec<_> = kinds.iter().map(|kind| schema(kind, definitions)).collect();
            json!({ "anyOf": kinds })
        }
        Kind::Any => json!({}),
    }
}
