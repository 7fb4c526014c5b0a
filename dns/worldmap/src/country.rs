//! Where the people of a country are, by ISO 3166-1 code.

use api_types::Location;

/// One place for all clients of a country: its principal city, or the centre of its population
/// where no one city stands for it. `None` for a code that is no country's.
///
/// A centre by area would send most Canadians, Russians and Australians astray.
#[must_use]
pub fn location(code: [u8; 2]) -> Option<Location> {
    let index = PLACES
        .binary_search_by_key(&code, |(code, ..)| *code)
        .ok()?;
    let (_, latitude, longitude) = PLACES[index];
    Some(Location {
        latitude,
        longitude,
    })
}

/// By code. Places and names are those of the first zone of each country in the tz database's
/// `zone.tab` (2025b, public domain), which is a principal city; for the largest countries, and
/// where that zone is an outlying one, our own choice. `EU` and `AN` are in old data,
/// `XK` is Kosovo's in common use.
const PLACES: &[([u8; 2], f64, f64)] = &[
    (*b"AD", 42.50, 1.52),     // Andorra
    (*b"AE", 25.30, 55.30),    // Dubai
    (*b"AF", 34.52, 69.20),    // Kabul
    (*b"AG", 17.05, -61.80),   // Antigua
    (*b"AI", 18.20, -63.07),   // Anguilla
    (*b"AL", 41.33, 19.83),    // Tirane
    (*b"AM", 40.18, 44.50),    // Yerevan
    (*b"AN", 12.11, -68.93),   // Willemstad
    (*b"AO", -8.80, 13.23),    // Luanda
    (*b"AQ", -77.83, 166.60),  // McMurdo
    (*b"AR", -34.60, -58.45),  // Buenos Aires
    (*b"AS", -14.27, -170.70), // Pago Pago
    (*b"AT", 48.22, 16.33),    // Vienna
    (*b"AU", -33.87, 151.21),  // Sydney
    (*b"AW", 12.50, -69.97),   // Aruba
    (*b"AX", 60.10, 19.95),    // Mariehamn
    (*b"AZ", 40.38, 49.85),    // Baku
    (*b"BA", 43.87, 18.42),    // Sarajevo
    (*b"BB", 13.10, -59.62),   // Barbados
    (*b"BD", 23.72, 90.42),    // Dhaka
    (*b"BE", 50.83, 4.33),     // Brussels
    (*b"BF", 12.37, -1.52),    // Ouagadougou
    (*b"BG", 42.68, 23.32),    // Sofia
    (*b"BH", 26.38, 50.58),    // Bahrain
    (*b"BI", -3.38, 29.37),    // Bujumbura
    (*b"BJ", 6.48, 2.62),      // Porto-Novo
    (*b"BL", 17.88, -62.85),   // St Barthelemy
    (*b"BM", 32.28, -64.77),   // Bermuda
    (*b"BN", 4.93, 114.92),    // Brunei
    (*b"BO", -16.50, -68.15),  // La Paz
    (*b"BQ", 12.15, -68.28),   // Kralendijk
    (*b"BR", -23.55, -46.63),  // São Paulo
    (*b"BS", 25.08, -77.35),   // Nassau
    (*b"BT", 27.47, 89.65),    // Thimphu
    (*b"BV", -54.42, 3.36),    // Bouvet Island
    (*b"BW", -24.65, 25.92),   // Gaborone
    (*b"BY", 53.90, 27.57),    // Minsk
    (*b"BZ", 17.50, -88.20),   // Belize
    (*b"CA", 43.70, -79.40),   // Toronto
    (*b"CC", -12.17, 96.92),   // Cocos
    (*b"CD", -4.30, 15.30),    // Kinshasa
    (*b"CF", 4.37, 18.58),     // Bangui
    (*b"CG", -4.27, 15.28),    // Brazzaville
    (*b"CH", 47.38, 8.53),     // Zurich
    (*b"CI", 5.32, -4.03),     // Abidjan
    (*b"CK", -21.23, -159.77), // Rarotonga
    (*b"CL", -33.45, -70.67),  // Santiago
    (*b"CM", 4.05, 9.70),      // Douala
    (*b"CN", 32.00, 114.00),   // centre of population
    (*b"CO", 4.60, -74.08),    // Bogota
    (*b"CR", 9.93, -84.08),    // Costa Rica
    (*b"CU", 23.13, -82.37),   // Havana
    (*b"CV", 14.92, -23.52),   // Cape Verde
    (*b"CW", 12.18, -69.00),   // Curacao
    (*b"CX", -10.42, 105.72),  // Christmas
    (*b"CY", 35.17, 33.37),    // Nicosia
    (*b"CZ", 50.08, 14.43),    // Prague
    (*b"DE", 50.90, 9.80),     // centre of population
    (*b"DJ", 11.60, 43.15),    // Djibouti
    (*b"DK", 55.67, 12.58),    // Copenhagen
    (*b"DM", 15.30, -61.40),   // Dominica
    (*b"DO", 18.47, -69.90),   // Santo Domingo
    (*b"DZ", 36.78, 3.05),     // Algiers
    (*b"EC", -2.17, -79.83),   // Guayaquil
    (*b"EE", 59.42, 24.75),    // Tallinn
    (*b"EG", 30.05, 31.25),    // Cairo
    (*b"EH", 27.15, -13.20),   // El Aaiun
    (*b"ER", 15.33, 38.88),    // Asmara
    (*b"ES", 40.42, -3.70),    // Madrid
    (*b"ET", 9.03, 38.70),     // Addis Ababa
    (*b"EU", 50.10, 9.90),     // centre of the European Union
    (*b"FI", 60.17, 24.97),    // Helsinki
    (*b"FJ", -18.13, 178.42),  // Fiji
    (*b"FK", -51.70, -57.85),  // Stanley
    (*b"FM", 6.97, 158.22),    // Pohnpei
    (*b"FO", 62.02, -6.77),    // Faroe
    (*b"FR", 48.87, 2.33),     // Paris
    (*b"GA", 0.38, 9.45),      // Libreville
    (*b"GB", 51.51, -0.13),    // London
    (*b"GD", 12.05, -61.75),   // Grenada
    (*b"GE", 41.72, 44.82),    // Tbilisi
    (*b"GF", 4.93, -52.33),    // Cayenne
    (*b"GG", 49.45, -2.54),    // Guernsey
    (*b"GH", 5.55, -0.22),     // Accra
    (*b"GI", 36.13, -5.35),    // Gibraltar
    (*b"GL", 64.18, -51.73),   // Nuuk
    (*b"GM", 13.47, -16.65),   // Banjul
    (*b"GN", 9.52, -13.72),    // Conakry
    (*b"GP", 16.23, -61.53),   // Guadeloupe
    (*b"GQ", 3.75, 8.78),      // Malabo
    (*b"GR", 37.97, 23.72),    // Athens
    (*b"GS", -54.27, -36.53),  // South Georgia
    (*b"GT", 14.63, -90.52),   // Guatemala
    (*b"GU", 13.47, 144.75),   // Guam
    (*b"GW", 11.85, -15.58),   // Bissau
    (*b"GY", 6.80, -58.17),    // Guyana
    (*b"HK", 22.28, 114.15),   // Hong Kong
    (*b"HM", -53.10, 73.50),   // Heard Island
    (*b"HN", 14.10, -87.22),   // Tegucigalpa
    (*b"HR", 45.80, 15.97),    // Zagreb
    (*b"HT", 18.53, -72.33),   // Port-au-Prince
    (*b"HU", 47.50, 19.08),    // Budapest
    (*b"ID", -6.20, 106.85),   // Jakarta
    (*b"IE", 53.33, -6.25),    // Dublin
    (*b"IL", 31.78, 35.22),    // Jerusalem
    (*b"IM", 54.15, -4.47),    // Isle of Man
    (*b"IN", 21.00, 78.00),    // centre of population
    (*b"IO", -7.33, 72.42),    // Chagos
    (*b"IQ", 33.35, 44.42),    // Baghdad
    (*b"IR", 35.67, 51.43),    // Tehran
    (*b"IS", 64.15, -21.85),   // Reykjavik
    (*b"IT", 41.90, 12.48),    // Rome
    (*b"JE", 49.18, -2.11),    // Jersey
    (*b"JM", 17.97, -76.79),   // Jamaica
    (*b"JO", 31.95, 35.93),    // Amman
    (*b"JP", 35.65, 139.74),   // Tokyo
    (*b"KE", -1.28, 36.82),    // Nairobi
    (*b"KG", 42.90, 74.60),    // Bishkek
    (*b"KH", 11.55, 104.92),   // Phnom Penh
    (*b"KI", 1.42, 173.00),    // Tarawa
    (*b"KM", -11.68, 43.27),   // Comoro
    (*b"KN", 17.30, -62.72),   // St Kitts
    (*b"KP", 39.02, 125.75),   // Pyongyang
    (*b"KR", 37.55, 126.97),   // Seoul
    (*b"KW", 29.33, 47.98),    // Kuwait
    (*b"KY", 19.30, -81.38),   // Cayman
    (*b"KZ", 43.24, 76.92),    // Almaty
    (*b"LA", 17.97, 102.60),   // Vientiane
    (*b"LB", 33.88, 35.50),    // Beirut
    (*b"LC", 14.02, -61.00),   // St Lucia
    (*b"LI", 47.15, 9.52),     // Vaduz
    (*b"LK", 6.93, 79.85),     // Colombo
    (*b"LR", 6.30, -10.78),    // Monrovia
    (*b"LS", -29.47, 27.50),   // Maseru
    (*b"LT", 54.68, 25.32),    // Vilnius
    (*b"LU", 49.60, 6.15),     // Luxembourg
    (*b"LV", 56.95, 24.10),    // Riga
    (*b"LY", 32.90, 13.18),    // Tripoli
    (*b"MA", 33.65, -7.58),    // Casablanca
    (*b"MC", 43.70, 7.38),     // Monaco
    (*b"MD", 47.00, 28.83),    // Chisinau
    (*b"ME", 42.43, 19.27),    // Podgorica
    (*b"MF", 18.07, -63.08),   // Marigot
    (*b"MG", -18.92, 47.52),   // Antananarivo
    (*b"MH", 7.15, 171.20),    // Majuro
    (*b"MK", 41.98, 21.43),    // Skopje
    (*b"ML", 12.65, -8.00),    // Bamako
    (*b"MM", 16.78, 96.17),    // Yangon
    (*b"MN", 47.92, 106.88),   // Ulaanbaatar
    (*b"MO", 22.20, 113.54),   // Macau
    (*b"MP", 15.20, 145.75),   // Saipan
    (*b"MQ", 14.60, -61.08),   // Martinique
    (*b"MR", 18.10, -15.95),   // Nouakchott
    (*b"MS", 16.72, -62.22),   // Montserrat
    (*b"MT", 35.90, 14.52),    // Malta
    (*b"MU", -20.17, 57.50),   // Mauritius
    (*b"MV", 4.17, 73.50),     // Maldives
    (*b"MW", -15.78, 35.00),   // Blantyre
    (*b"MX", 19.43, -99.13),   // Mexico City
    (*b"MY", 3.17, 101.70),    // Kuala Lumpur
    (*b"MZ", -25.97, 32.58),   // Maputo
    (*b"NA", -22.57, 17.10),   // Windhoek
    (*b"NC", -22.27, 166.45),  // Noumea
    (*b"NE", 13.52, 2.12),     // Niamey
    (*b"NF", -29.05, 167.97),  // Norfolk
    (*b"NG", 6.45, 3.40),      // Lagos
    (*b"NI", 12.15, -86.28),   // Managua
    (*b"NL", 52.37, 4.90),     // Amsterdam
    (*b"NO", 59.92, 10.75),    // Oslo
    (*b"NP", 27.72, 85.32),    // Kathmandu
    (*b"NR", -0.52, 166.92),   // Nauru
    (*b"NU", -19.02, -169.92), // Niue
    (*b"NZ", -36.85, 174.76),  // Auckland
    (*b"OM", 23.60, 58.58),    // Muscat
    (*b"PA", 8.97, -79.53),    // Panama
    (*b"PE", -12.05, -77.05),  // Lima
    (*b"PF", -17.53, -149.57), // Tahiti
    (*b"PG", -9.50, 147.17),   // Port Moresby
    (*b"PH", 14.59, 120.97),   // Manila
    (*b"PK", 24.87, 67.05),    // Karachi
    (*b"PL", 52.25, 21.00),    // Warsaw
    (*b"PM", 47.05, -56.33),   // Miquelon
    (*b"PN", -25.07, -130.08), // Pitcairn
    (*b"PR", 18.47, -66.11),   // Puerto Rico
    (*b"PS", 31.50, 34.47),    // Gaza
    (*b"PT", 38.72, -9.14),    // Lisbon
    (*b"PW", 7.33, 134.48),    // Palau
    (*b"PY", -25.27, -57.67),  // Asuncion
    (*b"QA", 25.28, 51.53),    // Qatar
    (*b"RE", -20.87, 55.47),   // Reunion
    (*b"RO", 44.43, 26.10),    // Bucharest
    (*b"RS", 44.83, 20.50),    // Belgrade
    (*b"RU", 55.75, 37.62),    // Moscow
    (*b"RW", -1.95, 30.07),    // Kigali
    (*b"SA", 24.63, 46.72),    // Riyadh
    (*b"SB", -9.53, 160.20),   // Guadalcanal
    (*b"SC", -4.67, 55.47),    // Mahe
    (*b"SD", 15.60, 32.53),    // Khartoum
    (*b"SE", 59.33, 18.05),    // Stockholm
    (*b"SG", 1.28, 103.85),    // Singapore
    (*b"SH", -15.92, -5.70),   // St Helena
    (*b"SI", 46.05, 14.52),    // Ljubljana
    (*b"SJ", 78.00, 16.00),    // Longyearbyen
    (*b"SK", 48.15, 17.12),    // Bratislava
    (*b"SL", 8.50, -13.25),    // Freetown
    (*b"SM", 43.92, 12.47),    // San Marino
    (*b"SN", 14.67, -17.43),   // Dakar
    (*b"SO", 2.07, 45.37),     // Mogadishu
    (*b"SR", 5.83, -55.17),    // Paramaribo
    (*b"SS", 4.85, 31.62),     // Juba
    (*b"ST", 0.33, 6.73),      // Sao Tome
    (*b"SV", 13.70, -89.20),   // El Salvador
    (*b"SX", 18.05, -63.05),   // Lower Princes
    (*b"SY", 33.50, 36.30),    // Damascus
    (*b"SZ", -26.30, 31.10),   // Mbabane
    (*b"TC", 21.47, -71.13),   // Grand Turk
    (*b"TD", 12.12, 15.05),    // Ndjamena
    (*b"TF", -49.35, 70.22),   // Kerguelen
    (*b"TG", 6.13, 1.22),      // Lome
    (*b"TH", 13.75, 100.52),   // Bangkok
    (*b"TJ", 38.58, 68.80),    // Dushanbe
    (*b"TK", -9.37, -171.23),  // Fakaofo
    (*b"TL", -8.55, 125.58),   // Dili
    (*b"TM", 37.95, 58.38),    // Ashgabat
    (*b"TN", 36.80, 10.18),    // Tunis
    (*b"TO", -21.13, -175.20), // Tongatapu
    (*b"TR", 41.02, 28.97),    // Istanbul
    (*b"TT", 10.65, -61.52),   // Port of Spain
    (*b"TV", -8.52, 179.22),   // Funafuti
    (*b"TW", 25.05, 121.50),   // Taipei
    (*b"TZ", -6.80, 39.28),    // Dar es Salaam
    (*b"UA", 50.45, 30.52),    // Kyiv
    (*b"UG", 0.32, 32.42),     // Kampala
    (*b"UM", 28.22, -177.37),  // Midway
    (*b"US", 39.00, -92.00),   // centre of population
    (*b"UY", -34.91, -56.21),  // Montevideo
    (*b"UZ", 41.30, 69.28),    // Tashkent
    (*b"VA", 41.90, 12.45),    // Vatican
    (*b"VC", 13.15, -61.23),   // St Vincent
    (*b"VE", 10.50, -66.93),   // Caracas
    (*b"VG", 18.45, -64.62),   // Tortola
    (*b"VI", 18.35, -64.93),   // St Thomas
    (*b"VN", 10.75, 106.67),   // Ho Chi Minh
    (*b"VU", -17.67, 168.42),  // Efate
    (*b"WF", -13.30, -176.17), // Wallis
    (*b"WS", -13.83, -171.73), // Apia
    (*b"XK", 42.67, 21.17),    // Pristina
    (*b"YE", 12.75, 45.20),    // Aden
    (*b"YT", -12.78, 45.23),   // Mayotte
    (*b"ZA", -26.25, 28.00),   // Johannesburg
    (*b"ZM", -15.42, 28.28),   // Lusaka
    (*b"ZW", -17.83, 31.05),   // Harare
];
