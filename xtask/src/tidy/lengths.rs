//! Files stay short enough to be read in one sitting.

use super::Finding;
use crate::tree::Tree;

const MAX_LINES: usize = 600;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.texts()
        .filter(|(path, _)| [".rs", ".ts", ".tsx"].iter().any(|end| path.ends_with(end)))
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| {
            Finding::of_file(path, format!("{lines} lines; {MAX_LINES} is the most: split it by subject"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_beyond_the_limit_is_found() {
        let (fits, too_long) = ("\n".repeat(MAX_LINES), "\n".repeat(MAX_LINES + 1));
        let tree =
            Tree::of([("a.rs", &fits), ("b.rs", &too_long), ("c.tsx", &too_long), ("d.md", &too_long)]);
        let paths: Vec<_> = check(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["b.rs", "c.tsx"]);
    }
}
