//! "Did you mean": the known name that is nearest to an unknown one.

/// Longer names are not compared.
const MAX_BYTES: usize = 200;
/// A name that begins another is near it from so many characters on: `bool` of `boolean`.
const MIN_COMMON_CHARS: usize = 3;

/// The nearest candidate, or none where even the nearest is another word altogether. Case does not
/// count, nor does the `$` of operators, which all have in common. Names are near by the number of
/// typing mistakes between them, at most a third of the longer one, or where one begins the other.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of the lengths; what is that long is no slip of a finger.
    if name.len() > MAX_BYTES {
        return None;
    }
    let bare = |name: &str| name.trim_start_matches('$').to_lowercase();
    let name = bare(name);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_BYTES)
        .filter_map(|candidate| {
            let other = bare(candidate);
            let distance = strsim::damerau_levenshtein(&name, &other);
            let (short, long) = match name.len() < other.len() {
                true => (&name, &other),
                false => (&other, &name),
            };
            let is_beginning = short.chars().count() >= MIN_COMMON_CHARS && long.starts_with(short);
            let most = (long.chars().count() / 3).max(1);
            (distance <= most || is_beginning).then_some((distance, candidate))
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

    #[test]
    fn the_dollar_does_not_count() {
        let known = ["$gte", "$lt", "$exists", "$regex"];
        assert_eq!(nearest("$gtee", known), Some("$gte"));
        assert_eq!(nearest("exists", known), Some("$exists"));
        assert_eq!(nearest("$banana", known), None);
    }

    #[test]
    fn a_beginning_is_near() {
        let known = ["bool", "int", "string", "date"];
        assert_eq!(nearest("boolean", known), Some("bool"));
        assert_eq!(nearest("str", known), Some("string"));
        assert_eq!(nearest("integer", known), Some("int"));
        assert_eq!(nearest("s", known), None);
    }
}
