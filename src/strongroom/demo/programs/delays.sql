SELECT f.carrier, count(*) AS departures, round(avg(f.dep_delay), 2) AS mean_delay,
       round(avg(CASE WHEN f.dep_delay > 15 THEN 1.0 ELSE 0.0 END), 4) AS share_late,
       round(avg(CASE WHEN w.visib < 5 AND f.dep_delay > 15 THEN 1.0 WHEN w.visib < 5 THEN 0.0 END), 4) AS share_late_in_fog,
       round(avg(2013 - p.year), 1) AS mean_age
FROM flights f
JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
JOIN planes p ON f.tailnum = p.tailnum
WHERE f.dep_delay IS NOT NULL
GROUP BY f.carrier
ORDER BY mean_delay DESC
