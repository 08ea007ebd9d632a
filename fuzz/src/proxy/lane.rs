//! Of the lane, what judges bytes.

#[path = "../../../src/proxy/lane/answer.rs"]
pub mod answer;
