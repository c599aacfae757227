SELECT f.carrier, w.visib < 5 AS poor_visibility, count(*) AS departures,
       avg(f.dep_delay) AS mean_delay, avg(w.wind_speed) AS mean_wind, avg(2013 - p.year) AS mean_age
FROM flights f
JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
JOIN planes p ON f.tailnum = p.tailnum
WHERE f.dep_delay IS NOT NULL
GROUP BY f.carrier, w.visib < 5
ORDER BY f.carrier, poor_visibility
