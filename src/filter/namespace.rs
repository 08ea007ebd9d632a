//! Which collection a stream is about.

use std::fmt;

/// `database.collection`, or a whole database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    pub database: String,
    /// `None`: every collection of the database.
    pub collection: Option<String>,
}

/// MongoDB's limit for a database name, in bytes.
const MAX_DATABASE_BYTES: usize = 63;
/// MongoDB's limit for `database.collection`, in bytes.
const MAX_BYTES: usize = 255;

impl Namespace {
    /// Reads `db.coll` or `db.*`.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn read(text: &str) -> Result<Namespace, (String, &'static str)> {
        Namespace::parse(text)
    }

    /// Reads `db.coll` or `db.*`. The error is what is wrong, and a hint.
    pub(super) fn parse(text: &str) -> Result<Namespace, (String, &'static str)> {
        const EXAMPLE: &str = "write database.collection, or database.* for the whole database";
        let error = |message: String, hint| Err((message, hint));
        let Some((database, collection)) = text.split_once('.') else {
            return error(format!("`{text}` does not name a database and a collection"), EXAMPLE);
        };
        if database.is_empty() || collection.is_empty() {
            return error(format!("`{text}` does not name a database and a collection"), EXAMPLE);
        }
        if database.len() > MAX_DATABASE_BYTES {
            return error(
                format!("the database name is longer than {MAX_DATABASE_BYTES} bytes"),
                "MongoDB has no such database",
            );
        }
        let forbidden = |c: char| c.is_control() || "/\\ \"$*<>:|?".contains(c);
        if let Some(c) = database.chars().find(|c| forbidden(*c)) {
            return error(
                format!("a database name cannot contain `{}`", c.escape_debug()),
                EXAMPLE,
            );
        }
        if ["admin", "local", "config"].contains(&database) {
            return error(
                format!("`{database}` is an internal database of MongoDB"),
                "it has no change streams: name a database of your own",
            );
        }
        if collection == "*" {
            return Ok(Namespace { database: database.to_owned(), collection: None });
        }
        if text.len() > MAX_BYTES {
            return error(
                format!("the name is longer than {MAX_BYTES} bytes"),
                "MongoDB has no such collection",
            );
        }
        if collection.starts_with("system.") {
            return error(
                format!("`{collection}` is an internal collection of MongoDB"),
                "it has no change stream: name a collection of your own",
            );
        }
        let forbidden = |c: char| c == '$' || c.is_control();
        if let Some(c) = collection.chars().find(|c| forbidden(*c)) {
            return error(
                format!("a collection name cannot contain `{}`", c.escape_debug()),
                EXAMPLE,
            );
        }
        if collection.starts_with('.') || collection.ends_with('.') {
            return error("a collection name cannot start or end with `.`".to_owned(), EXAMPLE);
        }
        Ok(Namespace { database: database.to_owned(), collection: Some(collection.to_owned()) })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection.as_deref().unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, database, collection) in [
            ("shop.orders", "shop", Some("orders")),
            ("shop.*", "shop", None),
            ("shop.a.b", "shop", Some("a.b")),
            ("shop.a*", "shop", Some("a*")),
            ("admins.x", "admins", Some("x")),
        ] {
            let namespace = Namespace::parse(text).unwrap();
            assert_eq!(namespace.database, database);
            assert_eq!(namespace.collection.as_deref(), collection);
            assert_eq!(namespace.to_string(), text);
        }
        let long_database = format!("{}.a", "d".repeat(64));
        let long = format!("d.{}", "c".repeat(254));
        for text in [
            "",
            "shop",
            ".orders",
            "shop.",
            "a b.c",
            "a$.c",
            "*.c",
            "*.*",
            "admin.x",
            "local.x",
            "config.*",
            "shop.system.views",
            "shop.a$b",
            "shop..a",
            "shop.a.",
            "shop.a\nb",
            &long_database,
            &long,
        ] {
            assert!(Namespace::parse(text).is_err(), "{text}");
        }
    }
}
