SELECT a.carrier, count(*) AS pairs
FROM flights a JOIN flights b ON a.dest = b.dest AND a.dep_delay < b.dep_delay
GROUP BY a.carrier
