//! Solves `A x = b` for a symmetric positive definite `A`, in place.

/// `a` is `n * n`, row by row; only the lower triangle is read, and it is overwritten by the factor. `b`
/// becomes `x`. False if `a` is not positive definite.
pub fn solve(a: &mut [f64], b: &mut [f64]) -> bool {
    let n = b.len();
    for row in 0..n {
        let (above, from) = a.split_at_mut(row * n);
        let current = &mut from[..=row];
        for column in 0..row {
            let other = &above[column * n..=column * n + column];
            let sum = dot(&current[..column], &other[..column]);
            current[column] = (current[column] - sum) / other[column];
        }
        let pivot = current[row] - dot(&current[..row], &current[..row]);
        // A NaN is refused as well.
        if pivot.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
            return false;
        }
        current[row] = pivot.sqrt();
    }
    for row in 0..n {
        let factor = &a[row * n..=row * n + row];
        b[row] = (b[row] - dot(&factor[..row], &b[..row])) / factor[row];
    }
    for row in (0..n).rev() {
        b[row] /= a[row * n + row];
        let x = b[row];
        for column in 0..row {
            b[column] -= a[row * n + column] * x;
        }
    }
    true
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn a_system_is_solved_and_an_indefinite_one_refused() {
        let mut a = [4.0, 0.0, 0.0, 2.0, 5.0, 0.0, -2.0, 1.0, 6.0];
        // A * (1, -2, 3).
        let mut b = [-6.0, -5.0, 14.0];
        assert!(solve(&mut a, &mut b));
        for (found, want) in b.iter().zip([1.0, -2.0, 3.0]) {
            assert!((found - want).abs() < 1e-12, "{b:?}");
        }
        for bad in [-1.0, 0.0, f64::NAN] {
            assert!(!solve(&mut [bad], &mut [1.0]), "{bad}");
        }
    }
}
