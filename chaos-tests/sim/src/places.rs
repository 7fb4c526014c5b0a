//! Facts: cities where clients are, and places where regions are.

use dns_steering::map::Continent::{
    self, Africa, Asia, Europe, MiddleEast, NorthAmerica, Oceania, SouthAmerica,
};

/// A city and the people in and around it.
#[derive(Debug, Clone, Copy)]
pub struct City {
    pub name: &'static str,
    pub latitude: f64,
    pub longitude: f64,
    /// In millions, of the built-up area, rounded. Only the order of size matters here.
    pub millions: f64,
    pub continent: Continent,
}

/// How many calls a person makes, beside one in Europe. A guess about who uses such services; with heads
/// alone three quarters of the demand would be in Asia and Africa.
#[must_use]
pub fn calls_per_head(continent: Continent) -> f64 {
    match continent {
        NorthAmerica => 1.3,
        Europe | Oceania => 1.0,
        MiddleEast => 0.4,
        SouthAmerica => 0.35,
        Asia => 0.2,
        Africa => 0.1,
    }
}

const fn city(
    name: &'static str,
    latitude: f64,
    longitude: f64,
    millions: f64,
    continent: Continent,
) -> City {
    City {
        name,
        latitude,
        longitude,
        millions,
        continent,
    }
}

/// Regions in the order in which a federation grows: the first twelve are the default.
pub const REGIONS: &[(&str, &str)] = &[
    ("iad", "Washington"),
    ("fra", "Frankfurt"),
    ("nrt", "Tokyo"),
    ("pdx", "Portland"),
    ("lhr", "London"),
    ("sin", "Singapore"),
    ("gru", "Sao Paulo"),
    ("syd", "Sydney"),
    ("bom", "Mumbai"),
    ("ord", "Chicago"),
    ("hkg", "Hong Kong"),
    ("jnb", "Johannesburg"),
    ("cdg", "Paris"),
    ("dfw", "Dallas"),
    ("icn", "Seoul"),
    ("dxb", "Dubai"),
    ("lax", "Los Angeles"),
    ("mad", "Madrid"),
    ("arn", "Stockholm"),
    ("yyz", "Toronto"),
    ("kix", "Osaka"),
    ("mxp", "Milan"),
    ("waw", "Warsaw"),
    ("scl", "Santiago"),
];

pub const CITIES: &[City] = &[
    city("Tokyo", 35.68, 139.69, 37.0, Asia),
    city("Osaka", 34.69, 135.50, 19.0, Asia),
    city("Nagoya", 35.18, 136.91, 9.5, Asia),
    city("Fukuoka", 33.59, 130.40, 5.5, Asia),
    city("Seoul", 37.57, 126.98, 25.0, Asia),
    city("Busan", 35.18, 129.08, 3.4, Asia),
    city("Beijing", 39.90, 116.41, 21.0, Asia),
    city("Shanghai", 31.23, 121.47, 28.0, Asia),
    city("Guangzhou", 23.13, 113.26, 19.0, Asia),
    city("Chengdu", 30.57, 104.07, 16.0, Asia),
    city("Wuhan", 30.59, 114.31, 11.0, Asia),
    city("Hong Kong", 22.32, 114.17, 7.5, Asia),
    city("Taipei", 25.03, 121.57, 7.0, Asia),
    city("Manila", 14.60, 120.98, 14.0, Asia),
    city("Ho Chi Minh City", 10.82, 106.63, 9.0, Asia),
    city("Hanoi", 21.03, 105.85, 8.0, Asia),
    city("Bangkok", 13.76, 100.50, 11.0, Asia),
    city("Kuala Lumpur", 3.15, 101.69, 8.0, Asia),
    city("Singapore", 1.35, 103.82, 6.0, Asia),
    city("Jakarta", -6.21, 106.85, 11.0, Asia),
    city("Surabaya", -7.26, 112.75, 3.0, Asia),
    city("Yangon", 16.87, 96.20, 5.5, Asia),
    city("Dhaka", 23.81, 90.41, 22.0, Asia),
    city("Kolkata", 22.57, 88.36, 15.0, Asia),
    city("Delhi", 28.61, 77.21, 32.0, Asia),
    city("Mumbai", 19.08, 72.88, 21.0, Asia),
    city("Bangalore", 12.97, 77.59, 13.0, Asia),
    city("Chennai", 13.08, 80.27, 11.5, Asia),
    city("Hyderabad", 17.39, 78.49, 10.5, Asia),
    city("Ahmedabad", 23.02, 72.57, 8.5, Asia),
    city("Colombo", 6.93, 79.86, 2.5, Asia),
    city("Karachi", 24.86, 67.00, 17.0, Asia),
    city("Lahore", 31.55, 74.34, 13.5, Asia),
    city("Tashkent", 41.30, 69.24, 2.6, Asia),
    city("Almaty", 43.24, 76.89, 2.0, Asia),
    city("Tehran", 35.69, 51.39, 9.5, MiddleEast),
    city("Baghdad", 33.31, 44.37, 7.5, MiddleEast),
    city("Riyadh", 24.71, 46.68, 7.6, MiddleEast),
    city("Jeddah", 21.49, 39.19, 4.8, MiddleEast),
    city("Dubai", 25.20, 55.27, 3.5, MiddleEast),
    city("Kuwait", 29.38, 47.99, 3.2, MiddleEast),
    city("Tel Aviv", 32.09, 34.78, 4.2, MiddleEast),
    city("Amman", 31.95, 35.93, 2.2, MiddleEast),
    city("Istanbul", 41.01, 28.98, 15.5, Europe),
    city("Ankara", 39.93, 32.86, 5.3, MiddleEast),
    city("Moscow", 55.76, 37.62, 12.6, Europe),
    city("Saint Petersburg", 59.93, 30.34, 5.5, Europe),
    city("Kyiv", 50.45, 30.52, 3.0, Europe),
    city("Warsaw", 52.23, 21.01, 3.1, Europe),
    city("Bucharest", 44.43, 26.10, 1.8, Europe),
    city("Budapest", 47.50, 19.04, 1.8, Europe),
    city("Vienna", 48.21, 16.37, 2.0, Europe),
    city("Prague", 50.08, 14.44, 1.3, Europe),
    city("Berlin", 52.52, 13.41, 4.5, Europe),
    city("Hamburg", 53.55, 9.99, 2.5, Europe),
    city("Frankfurt", 50.11, 8.68, 2.7, Europe),
    city("Cologne", 50.94, 6.96, 6.0, Europe),
    city("Munich", 48.14, 11.58, 2.9, Europe),
    city("Zurich", 47.38, 8.54, 1.5, Europe),
    city("Milan", 45.46, 9.19, 4.9, Europe),
    city("Rome", 41.90, 12.50, 4.3, Europe),
    city("Naples", 40.85, 14.27, 3.1, Europe),
    city("Athens", 37.98, 23.73, 3.1, Europe),
    city("Barcelona", 41.39, 2.17, 5.0, Europe),
    city("Madrid", 40.42, -3.70, 6.7, Europe),
    city("Lisbon", 38.72, -9.14, 2.9, Europe),
    city("Paris", 48.86, 2.35, 11.0, Europe),
    city("Lyon", 45.76, 4.84, 1.7, Europe),
    city("Brussels", 50.85, 4.35, 2.1, Europe),
    city("Amsterdam", 52.37, 4.90, 2.8, Europe),
    city("London", 51.51, -0.13, 11.0, Europe),
    city("Manchester", 53.48, -2.24, 2.8, Europe),
    city("Birmingham", 52.49, -1.89, 2.9, Europe),
    city("Dublin", 53.35, -6.26, 1.4, Europe),
    city("Copenhagen", 55.68, 12.57, 1.6, Europe),
    city("Stockholm", 59.33, 18.07, 1.7, Europe),
    city("Oslo", 59.91, 10.75, 1.1, Europe),
    city("Helsinki", 60.17, 24.94, 1.3, Europe),
    city("Cairo", 30.04, 31.24, 22.0, Africa),
    city("Alexandria", 31.20, 29.92, 5.5, Africa),
    city("Casablanca", 33.57, -7.59, 3.8, Africa),
    city("Algiers", 36.75, 3.06, 2.9, Africa),
    city("Lagos", 6.52, 3.38, 15.5, Africa),
    city("Accra", 5.60, -0.19, 4.0, Africa),
    city("Abidjan", 5.36, -4.01, 5.5, Africa),
    city("Kinshasa", -4.44, 15.27, 16.0, Africa),
    city("Luanda", -8.84, 13.23, 9.0, Africa),
    city("Nairobi", -1.29, 36.82, 5.3, Africa),
    city("Addis Ababa", 9.03, 38.74, 5.4, Africa),
    city("Johannesburg", -26.20, 28.05, 10.0, Africa),
    city("Cape Town", -33.92, 18.42, 4.8, Africa),
    city("New York", 40.71, -74.01, 19.5, NorthAmerica),
    city("Boston", 42.36, -71.06, 4.9, NorthAmerica),
    city("Philadelphia", 39.95, -75.17, 6.2, NorthAmerica),
    city("Washington", 39.04, -77.49, 6.3, NorthAmerica),
    city("Atlanta", 33.75, -84.39, 6.1, NorthAmerica),
    city("Miami", 25.76, -80.19, 6.1, NorthAmerica),
    city("Chicago", 41.88, -87.63, 9.4, NorthAmerica),
    city("Detroit", 42.33, -83.05, 4.3, NorthAmerica),
    city("Toronto", 43.65, -79.38, 6.3, NorthAmerica),
    city("Montreal", 45.50, -73.57, 4.3, NorthAmerica),
    city("Minneapolis", 44.98, -93.27, 3.7, NorthAmerica),
    city("Dallas", 32.78, -96.80, 7.8, NorthAmerica),
    city("Houston", 29.76, -95.37, 7.2, NorthAmerica),
    city("Denver", 39.74, -104.99, 3.0, NorthAmerica),
    city("Phoenix", 33.45, -112.07, 5.0, NorthAmerica),
    city("Los Angeles", 34.05, -118.24, 12.9, NorthAmerica),
    city("San Francisco", 37.77, -122.42, 6.5, NorthAmerica),
    city("Seattle", 47.61, -122.33, 4.0, NorthAmerica),
    city("Portland", 45.52, -122.68, 2.5, NorthAmerica),
    city("Vancouver", 49.28, -123.12, 2.7, NorthAmerica),
    city("Mexico City", 19.43, -99.13, 22.0, NorthAmerica),
    city("Guadalajara", 20.67, -103.35, 5.3, NorthAmerica),
    city("Monterrey", 25.69, -100.32, 5.1, NorthAmerica),
    city("Bogota", 4.71, -74.07, 11.0, SouthAmerica),
    city("Medellin", 6.24, -75.58, 4.1, SouthAmerica),
    city("Caracas", 10.48, -66.90, 2.9, SouthAmerica),
    city("Lima", -12.05, -77.04, 11.0, SouthAmerica),
    city("Santiago", -33.45, -70.67, 6.8, SouthAmerica),
    city("Buenos Aires", -34.60, -58.38, 15.3, SouthAmerica),
    city("Sao Paulo", -23.55, -46.63, 22.4, SouthAmerica),
    city("Rio de Janeiro", -22.91, -43.17, 13.6, SouthAmerica),
    city("Belo Horizonte", -19.92, -43.94, 6.1, SouthAmerica),
    city("Recife", -8.05, -34.88, 4.2, SouthAmerica),
    city("Fortaleza", -3.73, -38.53, 4.1, SouthAmerica),
    city("Porto Alegre", -30.03, -51.23, 4.2, SouthAmerica),
    city("Sydney", -33.87, 151.21, 5.3, Oceania),
    city("Melbourne", -37.81, 144.96, 5.1, Oceania),
    city("Brisbane", -27.47, 153.03, 2.6, Oceania),
    city("Perth", -31.95, 115.86, 2.1, Oceania),
    city("Auckland", -36.85, 174.76, 1.7, Oceania),
];

/// By name.
#[must_use]
pub fn find(name: &str) -> Option<usize> {
    CITIES.iter().position(|city| city.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_at_a_city_of_the_table_and_no_city_is_there_twice() {
        for (region, at) in REGIONS {
            assert!(find(at).is_some(), "{region} is at {at}");
        }
        for (index, city) in CITIES.iter().enumerate() {
            assert_eq!(find(city.name), Some(index), "{}", city.name);
            assert!(city.latitude.abs() < 66.0 && city.longitude.abs() <= 180.0);
        }
        assert!(CITIES.len() > 100);
    }
}
