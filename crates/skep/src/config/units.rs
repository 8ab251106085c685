//! The small notations of the config: durations, sizes, shares of a CPU; and the nearest known word to a mistyped one.

use std::time::Duration;

/// `"90s"`, `"5m"`, `"1h30m"`, `"2d"`, `"250ms"`: one or more number-and-unit pairs, no spaces.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("is \"{text}\", which is no duration");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
    }
    if total > Duration::from_secs(10 * 366 * 86_400) {
        return Err(format!("is \"{text}\", which is longer than ten years"));
    }
    Ok(total)
}

/// `"512MiB"`, `"2GB"`, `"1.5GiB"`, `"100000"` (bytes).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("is \"{text}\", which is no size");
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" | "k" => 1_000,
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        "TB" | "T" => 1_000_000_000_000,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let mut bytes = whole.checked_mul(unit).ok_or_else(bad)?;
    if number.contains('.') {
        let digits = u32::try_from(fraction.len()).map_err(|_| bad())?;
        if digits == 0 || digits > 6 {
            return Err(bad());
        }
        let part: u64 = fraction.parse().map_err(|_| bad())?;
        bytes =
            bytes.checked_add(part.checked_mul(unit).ok_or_else(bad)? / 10u64.pow(digits)).ok_or_else(bad)?;
    }
    Ok(bytes)
}

/// The word of `known` a mistyped `word` most likely means, when one is near enough to be worth naming.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = 1 + word.chars().count() / 3;
    known
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(80).collect();
    let right: Vec<char> = right.chars().take(80).collect();
    let mut before_last = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let replace = last[j] + usize::from(a != b);
            let mut best = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("2d", 172_800_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "m", "5 m", "-5m", "5m ", "5.5m", "5y", "99999999999999999999s", "9999d9999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            ("100", 100),
            ("1 kB", 1_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "5 furlongs", "1.GiB", "-1", "1e3", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_word_is_named_only_when_it_is_near() {
        let known = ["idle_timeout", "start_timeout", "seats", "env"];
        assert_eq!(nearest("idel_timeout", known), Some("idle_timeout"));
        assert_eq!(nearest("seat", known), Some("seats"));
        assert_eq!(nearest("completely_other", known), None);
        assert_eq!(nearest("ab", []), None);
    }
}
