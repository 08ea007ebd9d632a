//! Any bytes as a filter's `match` and as a document: a verdict, never a panic, and what is written
//! as JSON is JSON.
//!
//! The input is a BSON document, which is taken for the filter and for the projection, and after it
//! the bytes of the document.

#![no_main]

use bson::{Bson, Document, RawDocument};
use libfuzzer_sys::fuzz_target;
use sidestream_fuzz::event::json::write_relaxed_document;
use sidestream_fuzz::matcher::Template;
use sidestream_fuzz::matcher::projection::{Images, Projection};

fuzz_target!(|input: &[u8]| {
    let Some((head, _)) = input.split_first_chunk::<4>() else { return };
    let length = usize::try_from(i32::from_le_bytes(*head)).unwrap_or(0);
    let Some((filter, document)) = input.split_at_checked(length) else { return };
    // Only the frame of a document is checked here; what is inside may be anything.
    let Ok(document) = RawDocument::from_bytes(document) else { return };
    let mut json = Vec::new();
    write_relaxed_document(document, &mut json);
    serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("JSON");

    let Ok(filter) = Document::from_reader(filter) else { return };
    if let Ok(template) = Template::parse(&filter) {
        // What a client can put in: something of every shape, and nothing.
        for value in [Bson::Null, Bson::Array(vec![Bson::Int32(1), "x".into()]), "x".into()] {
            let predicate = template.bind(&mut |_| Some(value.clone()));
            predicate.matches(document);
            predicate.matches_key(document);
        }
        let predicate = template.bind(&mut |_| None);
        let verdict = predicate.matches(document);
        // What a whole document decides as a key, it decides as a document. Of bytes that break
        // off, or name a field twice, two readers may see different parts; and a key has shard keys
        // by their paths, which in a document are names that no path reaches.
        if let Some(decided) = predicate.matches_key(document)
            && is_well_formed(document)
            && document.iter().flatten().all(|(key, _)| !key.as_str().contains('.'))
        {
            assert_eq!(decided, verdict);
        }
    }
    if let Ok(projection) = Projection::parse(&filter) {
        for projected in [
            projection.apply(document),
            projection.apply_key(document),
            projection.apply_update_description(document, Images::default()),
            projection.apply_update_description(
                document,
                Images { before: Some(document), after: Some(document) },
            ),
        ] {
            json.clear();
            write_relaxed_document(&projected, &mut json);
            serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("JSON");
        }
    }
});

fn is_well_formed(document: &RawDocument) -> bool {
    let parsed = Document::try_from(document).ok();
    let again = parsed.and_then(|parsed| bson::RawDocumentBuf::try_from(&parsed).ok());
    again.is_some_and(|again| again.as_bytes() == document.as_bytes())
}
