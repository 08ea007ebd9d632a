//! Of the session, what is read from requests.

#[path = "../../src/session/bookmark.rs"]
pub mod bookmark;

/// Stands for the real one, which is beside what needs a database.
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
