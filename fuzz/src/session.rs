//! Of the session, what is read from requests.

#[path = "../../src/session/bookmark.rs"]
pub mod bookmark;

/// Stands for the real one, which is beside what needs a database.
pub mod many {
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Label {
        pub stream: String,
        pub alias: Option<String>,
    }

    impl Label {
        pub fn name(&self) -> &str {
            self.alias.as_deref().unwrap_or(&self.stream)
        }
    }
}

/// The same.
pub mod subscription {
    use crate::event::Position;

    #[derive(Debug, Clone)]
    pub enum From {
        Now,
        Position(Position),
        Invalid,
        Ago(u32),
    }
}
