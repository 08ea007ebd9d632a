//! Of the way to the app, what judges bytes.

#[path = "../../../src/proxy/app/answer.rs"]
pub mod answer;
#[path = "../../../src/proxy/app/body.rs"]
pub mod body;
