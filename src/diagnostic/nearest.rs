//! "Did you mean": the known name that is nearest to an unknown one.

/// Longer names are not compared.
const MAX_BYTES: usize = 200;

/// The nearest candidate, or none where even the nearest is another word altogether.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of the lengths; what is that long is no slip of a finger.
    if name.len() > MAX_BYTES {
        return None;
    }
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_BYTES)
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let longest = name.chars().count().max(candidate.chars().count());
            *distance <= (longest / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_and_far() {
        let known = ["collection", "operations", "match", "access"];
        assert_eq!(nearest("colection", known), Some("collection"));
        assert_eq!(nearest("Match", known), Some("match"));
        assert_eq!(nearest("acess", known), Some("access"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
    }
}
