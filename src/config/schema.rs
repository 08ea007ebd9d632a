//! The JSON Schema of the settings file, from the declarations.

use serde_json::{Map, Value, json};

use super::setting::{SETTINGS, Setting, SettingKind, members};

/// The JSON Schema (2020-12) of a settings file. Each setting has its `default`, and in `$comment`
/// its environment variable and its flag.
pub fn schema() -> Value {
    let mut schema = group("");
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of Sidestream",
    });
    let Value::Object(mut all) = head else { return schema };
    if let Value::Object(rest) = &mut schema {
        all.append(rest);
    }
    Value::Object(all)
}

/// A group, or the whole file. A group may be empty: all of its keys commented out.
fn group(key: &str) -> Value {
    let mut properties = Map::new();
    for name in members(key) {
        let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        let schema = match SETTINGS.iter().find(|setting| setting.key == inner) {
            Some(setting) => one(setting),
            None => group(&inner),
        };
        properties.insert(name, schema);
    }
    json!({
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": false,
    })
}

fn one(setting: &Setting) -> Value {
    let mut schema = of_kind(setting);
    let mut put = |key: &str, value: Value| _ = schema.insert(key.to_owned(), value);
    let about = match setting.range() {
        // The schema of a list or a choice shows its words already.
        Some(range)
            if !matches!(setting.kind, SettingKind::Word(_) | SettingKind::Words { .. }) =>
        {
            format!("{} {range}.", setting.about)
        }
        _ => setting.about.clone(),
    };
    put("description", about.into());
    if let Some(default) = setting.default {
        put("default", written(setting, default));
    }
    let comment = match setting.flag {
        Some(flag) => format!("{} {flag}", setting.variable()),
        None => setting.variable(),
    };
    put("$comment", comment.into());
    Value::Object(schema)
}

/// A default as it stands in the file.
fn written(setting: &Setting, default: &str) -> Value {
    match setting.kind {
        SettingKind::Count { .. } => default.parse::<u64>().map_or(default.into(), Value::from),
        SettingKind::Switch => (default == "true").into(),
        _ if setting.list_example().is_some() => {
            let items = default.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(Value::from).collect::<Vec<_>>().into()
        }
        _ => default.into(),
    }
}

fn of_kind(setting: &Setting) -> Map<String, Value> {
    let schema = match setting.kind {
        SettingKind::Duration { .. } => {
            json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
        }
        SettingKind::Size { .. } => {
            json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" })
        }
        SettingKind::Count { least, most } => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        SettingKind::Word(words) => json!({ "enum": words }),
        SettingKind::Switch => json!({ "type": "boolean" }),
        // One item may stand without brackets.
        SettingKind::Words { words, .. } => json!({
            "type": ["array", "string"],
            "items": { "enum": words },
        }),
        SettingKind::Texts { .. } | SettingKind::Networks => json!({
            "type": ["array", "string"],
            "items": { "type": "string" },
        }),
        SettingKind::Prefix => json!({ "type": "string", "pattern": "^/.*[^/]$" }),
        SettingKind::App => json!({ "type": "string", "pattern": "^(https?://|unix:)" }),
        SettingKind::Url => json!({ "type": "string", "pattern": "^https?://" }),
        SettingKind::Mongodb => json!({ "type": "string", "pattern": "^mongodb(\\+srv)?://" }),
        SettingKind::Secret
        | SettingKind::Text
        | SettingKind::Path
        | SettingKind::SecretFile
        | SettingKind::Address => {
            json!({ "type": "string" })
        }
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_schema() {
        let schema = schema();
        for setting in SETTINGS.iter() {
            let pointer = format!("/properties/{}", setting.key.replace('.', "/properties/"));
            let one = schema.pointer(&pointer).unwrap_or_else(|| panic!("{}", setting.key));
            let about = one["description"].as_str().unwrap();
            assert!(about.starts_with(&setting.about), "{about}");
            assert_eq!(one.get("default").is_some(), setting.default.is_some());
        }
        assert_eq!(schema["properties"]["clients"]["additionalProperties"], false);
        assert_eq!(schema["properties"]["log"]["properties"]["format"]["enum"][1], "json");
        assert_eq!(schema["properties"]["trusted_proxies"]["default"][0], "127.0.0.0/8");
    }
}
