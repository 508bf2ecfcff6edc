//! All kinds at once, at random, against a model.

use std::collections::BTreeMap;
use std::ops::Bound;

use alluvium::{KeyRef, StateSpec};

use super::noise;
use crate::harness::{Job, claims};

claims! {
    random_changes_of_all_kinds_are_what_they_were_after_any_life
}

type Place = (u8, u8);

#[derive(Default)]
struct Model {
    values: BTreeMap<Place, Vec<u8>>,
    lists: BTreeMap<Place, Vec<Vec<u8>>>,
    maps: BTreeMap<Place, BTreeMap<Vec<u8>, Vec<u8>>>,
}

struct States {
    values: StateSpec,
    lists: StateSpec,
    maps: StateSpec,
}

fn random_changes_of_all_kinds_are_what_they_were_after_any_life(job: &mut Job) {
    for seed in 0..4 {
        let states = States {
            values: StateSpec::value(&format!("values {seed}")),
            lists: StateSpec::list(&format!("lists {seed}")),
            maps: StateSpec::map(&format!("maps {seed}")),
        };
        let mut model = Model::default();
        let dice = noise(seed + 2000, 6 * 700);
        for (round, dice) in dice.chunks_exact(6).enumerate() {
            step(job, &states, &mut model, dice.try_into().unwrap());
            if round % 100 == 99 {
                job.pause();
                compare(job, &states, &model, seed);
            }
        }
    }
}

fn step(job: &mut Job, states: &States, model: &mut Model, dice: [u8; 6]) {
    let [key, namespace, what, a, b, c] = dice;
    let place = (key % 12, namespace % 3);
    let (key, namespace) = ([place.0], [place.1]);
    let key = KeyRef::new(&key).namespace(&namespace[..usize::from(place.1).min(1)]);
    let (entry, value) = (vec![a % 16], noise(u64::from(b), usize::from(c % 64)));
    match what % 16 {
        0 | 1 => {
            job.put(&states.values, key, &value);
            model.values.insert(place, value);
        }
        2 => {
            job.clear(&states.values, key);
            model.values.remove(&place);
        }
        3..=6 => {
            job.append(&states.lists, key, &[&value, &entry]);
            model.lists.entry(place).or_default().extend([value, entry]);
        }
        7 => {
            job.replace(&states.lists, key, &[&value]);
            model.lists.insert(place, vec![value]);
        }
        8 => {
            job.clear(&states.lists, key);
            model.lists.remove(&place);
        }
        9..=12 => {
            job.map_put(&states.maps, key, &entry, &value);
            model.maps.entry(place).or_default().insert(entry, value);
        }
        13 | 14 => {
            job.map_remove(&states.maps, key, &entry);
            if let Some(map) = model.maps.get_mut(&place) {
                map.remove(&entry);
            }
        }
        _ => {
            job.clear(&states.maps, key);
            model.maps.remove(&place);
        }
    }
    model.maps.retain(|_, map| !map.is_empty());
}

fn compare(job: &mut Job, states: &States, model: &Model, seed: u64) {
    for place in (0..12).flat_map(|key| (0..3).map(move |namespace| (key, namespace))) {
        let (key, namespace) = ([place.0], [place.1]);
        let key = KeyRef::new(&key).namespace(&namespace[..usize::from(place.1).min(1)]);
        let at = format!("seed {seed}, {place:?}");
        assert_eq!(job.get(&states.values, key).as_ref(), model.values.get(&place), "{at}");
        let list = model.lists.get(&place).cloned().unwrap_or_default();
        assert_eq!(job.list(&states.lists, key), list, "{at}");
        let map = model.maps.get(&place).cloned().unwrap_or_default();
        assert_eq!(job.map_is_empty(&states.maps, key), map.is_empty(), "{at}");
        for entry in 0..16 {
            assert_eq!(
                job.map_get(&states.maps, key, &[entry]).as_ref(),
                map.get(&[entry][..]),
                "{at}"
            );
        }
        let from = vec![place.0];
        let rest: Vec<_> = map.range(from.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
        let found = job.scan(&states.maps, key, Bound::Included(&from), usize::MAX);
        assert_eq!(found, rest, "{at}");
        assert_eq!(job.entries(&states.maps, key), map.into_iter().collect::<Vec<_>>(), "{at}");
    }
    let visited =
        [&states.values, &states.lists, &states.maps].map(|spec| job.keys(spec, None).len());
    assert_eq!(visited, [model.values.len(), model.lists.len(), model.maps.len()], "seed {seed}");
}
